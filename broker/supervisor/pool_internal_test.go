package supervisor

import (
	"slices"
	"testing"
	"time"
)

// TestDelay: the first delay is none, then it doubles up to the last one, less up to a half.
func TestDelay(t *testing.T) {
	const first, last = 100 * time.Millisecond, time.Second
	for failures, full := range []time.Duration{0, first, 2 * first, 4 * first, 8 * first, last, last} {
		least, most := last, time.Duration(0)
		for range 1000 {
			d := delay(failures, first, last)
			least, most = min(least, d), max(most, d)
		}
		if least < full/2 || most > full {
			t.Errorf("after %d failures: between %v and %v, want between %v and %v", failures, least, most, full/2, full)
		}
		if full > 0 && most-least < full/4 {
			t.Errorf("after %d failures: always about %v", failures, least)
		}
	}
	if d := delay(1<<30, first, last); d > last {
		t.Errorf("after many failures: %v", d)
	}
}

// TestRemoveSlot: a worker that is not ready is removed first.
func TestRemoveSlot(t *testing.T) {
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
		p := &pool{config: Config{Workers: len(c.steps)}}
		for _, step := range c.steps {
			sl := new(slot)
			if step != none {
				sl.current = &worker{slot: sl, step: step, ran: time.Now()}
			}
			p.slots = append(p.slots, sl)
		}
		gone := p.slots[c.want]
		w := gone.current
		p.removeSlot(time.Now())
		if len(p.slots) != len(c.steps)-1 || slices.Contains(p.slots, gone) {
			t.Errorf("%s: it is not slot %d that is gone", c.name, c.want)
		}
		if w != nil && w.slot != nil {
			t.Errorf("%s: the worker was not asked to leave", c.name)
		}
	}
	p := &pool{config: Config{Workers: 1}, slots: []*slot{{}}}
	if p.removeSlot(time.Now()); len(p.slots) != 1 {
		t.Error("the last one is gone")
	}
}
