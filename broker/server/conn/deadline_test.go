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
	for range 1000 {
		c := conns[rand.IntN(len(conns))]
		if rand.IntN(4) == 0 {
			c.clearDeadline()
		} else {
			c.setDeadline(deadlineCall, begin.Add(time.Duration(rand.IntN(1000))))
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
