//go:build linux

package supervisor

import (
	"fmt"
	"slices"
	"time"
)

// roll replaces all workers: for each the new one comes first, and the old one is
// stopped once that is ready. It goes no further once one of the new ones has failed,
// be that after it was ready.
type roll struct {
	pending []*slot // not begun
	done    int
	total   int
	again   bool // another was asked for meanwhile
	failed  bool
	// owed is how many places the workers that were stopped have left for those on
	// standby, who do not serve yet; it is forgotten when due.
	owed int
	due  time.Time
}

// beginRoll begins a roll, or makes the one under way be followed by another.
func (s *supervisor) beginRoll(now time.Time) {
	switch {
	case s.ending || !s.open:
		return
	case s.roll != nil:
		s.roll.again = true
		s.log.Info().Msg("another roll follows this one")
		return
	}
	s.rollErr = ""
	s.roll = &roll{pending: slices.Clone(s.slots), total: len(s.slots)}
	// Who waits for a place first: else an old one might get it in between.
	slices.SortStableFunc(s.roll.pending, func(a, b *slot) int { return standbyLast(a) - standbyLast(b) })
	s.log.Info().Int("count", s.roll.total).Msg("replacing the workers")
	s.config.Tell(reloading())
	s.advance(now)
}

func standbyLast(sl *slot) int {
	if sl.current != nil && sl.current.step == stepStandby {
		return 0
	}
	return 1
}

// advance takes the roll as far as it can go now.
func (s *supervisor) advance(now time.Time) {
	r := s.roll
	if r == nil || s.ending {
		return
	}
	if !r.due.IsZero() && !r.due.After(now) {
		r.owed, r.due = 0, time.Time{} // somebody else has got the place
	}
	busy := false
	for _, sl := range s.slots {
		s.handOver(r, sl, now)
		busy = busy || sl.next != nil || sl.current != nil && sl.current.rolling
	}
	for !r.failed && len(r.pending) > 0 && s.alive() < len(s.slots)+s.config.Surge {
		sl := r.pending[0]
		r.pending = r.pending[1:]
		if !slices.Contains(s.slots, sl) {
			continue // one less, meanwhile
		}
		sl.failures = 0
		w := s.start(sl, now)
		if w == nil {
			s.rollFailed(r, "a new worker could not be started", now)
			break
		}
		w.roll, w.rolling = r, true
		if sl.next = w; w.due.IsZero() && w.step < stepRunning {
			w.due = now.Add(s.config.ReadyTimeout)
		}
		busy = true
		s.handOver(r, sl, now) // where it is ready at once
	}
	for _, w := range s.workers {
		busy = busy || w.slot == nil && !w.ahead // an old one that has not left
	}
	if !busy && (r.failed || len(r.pending) == 0) && r.owed == 0 && !s.ending {
		s.endRoll(now)
	}
}

// alive is how many workers there are, those included that are to leave.
func (s *supervisor) alive() int {
	n := 0
	for _, w := range s.workers {
		if !w.ahead {
			n++
		}
	}
	return n
}

// handOver makes the new worker of a slot, once it is ready, take the old one's
// place. One that has no place yet waits for those before it to serve first, and no old
// one goes while a new one is missing.
func (s *supervisor) handOver(r *roll, sl *slot, now time.Time) {
	next, old := sl.next, sl.current
	if old != nil && old.rolling && old.usable() { // what it was to replace has ended by itself
		old.rolling = false
		r.done++
	}
	if !next.usable() || next.step == stepStandby && r.owed > 0 {
		return
	}
	if old != nil && (next.gone() || !s.steady(r)) {
		return // what is to come of that calls for the next try
	}
	next.rolling = false
	if next.step == stepStandby && old != nil && old.step >= stepRunning {
		r.owed++
		r.due = now.Add(s.config.Grace + s.config.ReadyTimeout)
	}
	sl.current, sl.next = next, nil
	r.done++
	if old != nil {
		s.leave(old, now)
	}
}

// steady reports whether all workers that r has put in place are there, and ready.
func (s *supervisor) steady(r *roll) bool {
	for _, sl := range s.slots {
		if w := sl.current; w != nil && w.roll == r && (!w.usable() || w.gone()) {
			return false
		}
	}
	return true
}

// repay notes that a worker that was on standby serves now.
func (s *supervisor) repay(w *worker) {
	if r := s.roll; r != nil && w.stood && r.owed > 0 {
		if r.owed--; r.owed == 0 {
			r.due = time.Time{}
		}
	}
}

// rollFailed ends r, if that is the roll under way: what old workers there are stay,
// and those that were to replace them leave.
func (s *supervisor) rollFailed(r *roll, why string, now time.Time) {
	if r == nil || r != s.roll || r.failed {
		return
	}
	r.failed = true
	s.rollErr = fmt.Sprintf("the last replacement stopped after %d of %d: %s", r.done, r.total, why)
	s.log.Error().Int("done", r.done).Int("count", r.total).Str("why", why).Msg("replacing stopped: the old workers go on")
	for _, sl := range s.slots {
		if w := sl.next; w != nil && sl.current != nil {
			sl.next = nil
			s.leave(w, now)
		}
	}
}

func (s *supervisor) endRoll(now time.Time) {
	r := s.roll
	s.roll = nil
	if !r.failed {
		s.log.Info().Int("count", r.done).Msg("workers replaced")
	}
	s.status = "" // the manager is to hear that the roll is over
	if r.again {
		s.beginRoll(now)
	}
}
