package conn

import (
	"math/rand/v2"
	"testing"
	"time"
)

// TestDeadlines compares a list of deadlines with a plain one, while entries are set, set again, cleared, and
// come due.
func TestDeadlines(t *testing.T) {
	var l deadlines[int]
	const entries = 20
	all := make([]*deadline[int], entries)
	for i := range all {
		all[i] = &deadline[int]{value: i}
	}
	set := make(map[int]time.Time) // what the list must have
	now := time.Unix(1000, 0)
	earliest := func() (at time.Time, ok bool) {
		for _, v := range set {
			if !ok || v.Before(at) {
				at, ok = v, true
			}
		}
		return at, ok
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		d := all[r.IntN(entries)]
		switch r.IntN(4) {
		case 0, 1: // often one that is set already
			at := now.Add(time.Duration(r.IntN(50)) * time.Second)
			l.set(d, at)
			set[d.value] = at
		case 2: // often one that is not set
			l.clear(d)
			delete(set, d.value)
		case 3:
			now = now.Add(time.Duration(r.IntN(5)) * time.Second)
			var last time.Time
			for {
				v, ok := l.due(now)
				if !ok {
					break
				}
				at, is := set[v]
				if !is || at.After(now) || at.Before(last) {
					t.Fatalf("at %v entry %d is due, set %t for %v, after one for %v", now, v, is, at, last)
				}
				last = at
				delete(set, v)
			}
		}
		want, any := earliest()
		if at, ok := l.next(); ok != any || !at.Equal(want) || ok && l.entries.Len() != len(set) {
			t.Fatalf("next is %v, %t, want %v, %t; %d entries, want %d", at, ok, want, any, l.entries.Len(), len(set))
		}
		for _, d := range all {
			if _, is := set[d.value]; is != (d.index > 0) || is && l.entries[d.index-1] != d {
				t.Fatalf("entry %d is set: %t, and at %d", d.value, is, d.index)
			}
		}
		if at, ok := earliest(); ok && at.Before(now) {
			v, due := l.due(now)
			if !due || !set[v].Equal(at) {
				t.Fatalf("entry %d is due, %t, set for %v, want %v", v, due, set[v], at)
			}
			delete(set, v)
		}
	}
}

// TestDeadlinesOrder: entries come due in the order of their times, whatever they were set to before.
func TestDeadlinesOrder(t *testing.T) {
	var l deadlines[string]
	a, b, c, d := &deadline[string]{value: "a"}, &deadline[string]{value: "b"}, &deadline[string]{value: "c"}, &deadline[string]{value: "d"}
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	l.set(a, at(1))
	l.set(b, at(2))
	l.set(c, at(3))
	l.set(d, at(4))
	l.set(a, at(9)) // later
	l.set(d, at(0)) // earlier
	l.clear(b)
	l.clear(b) // again
	if _, ok := l.due(at(-1)); ok {
		t.Error("one is due before its time")
	}
	got := ""
	for v, ok := l.due(at(9)); ok; v, ok = l.due(at(9)) { // a time has come when it is reached
		got += v
	}
	if got != "dca" {
		t.Errorf("due in the order %s, want dca", got)
	}
	l.clear(a)
	l.set(b, at(5))
	if next, ok := l.next(); !ok || !next.Equal(at(5)) {
		t.Errorf("next is %v, %t", next, ok)
	}
}
