package journal_test

import "testing"

// BenchmarkGrant measures a grant that begins and ends.
func BenchmarkGrant(b *testing.B) {
	j := begin(b)
	for id := range int64(1000) {
		j.PutGrant(someGrant(id + 1))
	}
	g := someGrant(2000)
	b.ReportAllocs()
	for b.Loop() {
		j.PutGrant(g)
		j.RemoveGrant(g.ID)
	}
}
