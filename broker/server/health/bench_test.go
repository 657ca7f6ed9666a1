package health

import "testing"

// BenchmarkHeldFreed measures the share of the monitor in a handout and its end.
func BenchmarkHeldFreed(b *testing.B) {
	r := new(reports)
	m, err := Start(r)
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	s := open(b, "web=127.0.0.1:0")
	m.Watch(s, false)
	for b.Loop() {
		m.Held(s)
		m.Freed(s)
	}
}
