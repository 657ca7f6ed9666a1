package conn

import (
	"math/rand/v2"
	"testing"
	"time"
)

// TestDeadlines: deadlines come in their order, also if they were set again or cleared.
func TestDeadlines(t *testing.T) {
	var l Loop
	begin := time.Now()
	conns := make([]*Conn, 100)
	for i := range conns {
		conns[i] = &Conn{loop: &l}
	}
	set := make(map[int]time.Time) // the deadlines that the list must have
	now := time.Unix(1000, 0)
	earliest := func() (at time.Time, ok bool) {
		for _, v := range set {
			if !ok || v.Before(at) {
				at, ok = v, true
			}
		}
	}
	set := 0
	for _, c := range conns {
		if c.deadlineKind != deadlineNone {
			set++
		}
	}
	for last := begin; len(l.deadlines) > 0; set-- {
		c := l.deadlines[0]
		if c.deadline.Before(last) {
			t.Fatalf("%v comes after %v", c.deadline, last)
		}
		last = c.deadline
		c.clearDeadline()
	}
	if set != 0 {
		t.Errorf("%d deadlines are missing", set)
	}
}
