package supervisor

import (
	"fmt"
	"slices"
	"time"
)

// roll replaces the workers of all slots. For each it starts a new worker, and asks the old one to leave once the new
// one is usable. It stops at the first new worker that fails, even if that was ready before.
type roll struct {
	id      int
	pending []*slot // that have no new worker yet
	done    int
	total   int
	again   bool   // another roll was asked for meanwhile
	failure string // says that it has failed, and why; empty: it has not
	// owed is how many places the workers that have left owe to workers on standby, which do
	// not serve yet. At due they are written off, because other workers have taken them.
	owed int
	due  time.Time
}

// newRoll returns a roll of all slots. Those of workers on standby come first; else an old
// worker might get the place that a new one frees.
func newRoll(id int, slots []*slot) *roll {
	r := &roll{id: id, total: len(slots)}
	onStandby := func(sl *slot) bool { return sl.current != nil && sl.current.step == stepStandby }
	for _, first := range []bool{true, false} {
		for _, sl := range slots {
			if onStandby(sl) == first {
				r.pending = append(r.pending, sl)
			}
		}
	}
	return r
}

// advance takes the roll as far as it can go now, and returns whether it is over.
func (r *roll) advance(p *pool, now time.Time) (over bool) {
	if !r.due.IsZero() && !r.due.After(now) {
		r.owed, r.due = 0, time.Time{}
	}
	busy := false
	for _, sl := range p.slots {
		r.handOver(p, sl, now)
		busy = busy || sl.next != nil || sl.current != nil && sl.current.replacing
	}
	for r.failure == "" && len(r.pending) > 0 && p.alive() < len(p.slots)+p.config.Surge {
		sl := r.pending[0]
		r.pending = r.pending[1:]
		if !slices.Contains(p.slots, sl) {
			continue // removed meanwhile
		}
		if !r.startNext(p, sl, now) {
			break
		}
		busy = true
	}
	for _, w := range p.workers {
		busy = busy || w.slot == nil && !w.prestarted // an old worker that has not exited
	}
	return !busy && (r.failure != "" || len(r.pending) == 0) && r.owed == 0 && p.fatal == nil
}

// startNext starts the worker that is to replace sl's, and reports whether that worked.
func (r *roll) startNext(p *pool, sl *slot, now time.Time) bool {
	sl.failures = 0
	w := p.start(sl, now)
	if w == nil {
		r.fail(p, "no new worker could be started", now)
		return false
	}
	w.roll, w.replacing = r.id, true
	if sl.next = w; w.due.IsZero() && w.step < stepRunning {
		w.due = now.Add(p.config.ReadyTimeout)
	}
	r.handOver(p, sl, now) // it may be ready at once
	return true
}

// handOver gives a slot to its new worker once that is usable. A new worker on standby waits until those before it have
// their places, and no old worker leaves while one of the new workers is missing.
func (r *roll) handOver(p *pool, sl *slot, now time.Time) {
	next, old := sl.next, sl.current
	if old != nil && old.replacing && old.usable() { // the worker that it was to replace has exited by itself
		old.replacing = false
		r.done++
	}
	if !next.usable() || next.step == stepStandby && r.owed > 0 {
		return
	}
	if old != nil && (next.exited() || !r.steady(p)) {
		return // the exit is about to be handled, and calls advance again
	}
	next.replacing = false
	if next.step == stepStandby && old != nil && old.step >= stepRunning {
		r.owed++
		r.due = now.Add(p.config.Grace + p.config.ReadyTimeout)
	}
	sl.current, sl.next = next, nil
	r.done++
	if old != nil {
		p.leave(old, now)
	}
}

// steady reports whether all workers that r has put in place are still usable.
func (r *roll) steady(p *pool) bool {
	for _, sl := range p.slots {
		if w := sl.current; w != nil && w.roll == r.id && (!w.usable() || w.exited()) {
			return false
		}
	}
	return true
}

// fail stops r: the old workers stay, and those that were to replace them leave.
func (r *roll) fail(p *pool, why string, now time.Time) {
	if r.failure != "" || p.fatal != nil {
		return
	}
	r.failure = fmt.Sprintf("deploy failed: %s; old workers keep running", why)
	if r.done > 0 {
		r.failure += fmt.Sprintf(" beside %d of %d that were replaced", r.done, r.total)
	}
	p.log.Error().Int("done", r.done).Int("count", r.total).Str("why", why).Msg("deploy failed: old workers keep running")
	for _, sl := range p.slots {
		if w := sl.next; w != nil && sl.current != nil {
			sl.next = nil
			p.leave(w, now)
		}
	}
}
