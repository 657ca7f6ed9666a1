//go:build linux

package supervisor

import (
	"slices"
	"testing"
	"time"
)

// TestLess: the one that goes is not ready, as long as there is such a one.
func TestLess(t *testing.T) {
	const none step = -1
	for _, c := range []struct {
		name  string
		steps []step
		want  int // the slot that goes
	}{
		{"all are ready", []step{stepReady, stepReady, stepReady}, 2},
		{"one runs", []step{stepReady, stepRunning, stepReady}, 1},
		{"the last is ready", []step{stepRunning, stepRunning, stepReady}, 1},
		{"one starts", []step{stepStarting, stepReady, stepReady}, 0},
		{"one waits", []step{stepReady, stepWaiting, stepReady}, 1},
		{"one is missing", []step{none, stepReady, stepReady}, 0},
		{"the last is on standby", []step{stepReady, stepReady, stepStandby}, 2},
		{"one is on standby, another runs", []step{stepRunning, stepReady, stepStandby}, 0},
	} {
		s := &supervisor{config: Config{Workers: len(c.steps)}}
		for _, step := range c.steps {
			sl := new(slot)
			if step != none {
				sl.current = &worker{pidfd: -1, slot: sl, step: step, ran: time.Now()}
			}
			s.slots = append(s.slots, sl)
		}
		gone := s.slots[c.want]
		w := gone.current
		s.less(time.Now())
		if len(s.slots) != len(c.steps)-1 || slices.Contains(s.slots, gone) {
			t.Errorf("%s: it is not slot %d that is gone", c.name, c.want)
		}
		if w != nil && w.slot != nil {
			t.Errorf("%s: the worker was not asked to leave", c.name)
		}
	}
	s := &supervisor{config: Config{Workers: 1}, slots: []*slot{{}}}
	if s.less(time.Now()); len(s.slots) != 1 {
		t.Error("the last one is gone")
	}
}
