//go:build linux

package supervisor

import (
	"math/rand/v2"
	"time"
)

// slot is a place for a worker that is to be kept alive.
type slot struct {
	current  *worker   // nil: none runs
	next     *worker   // is to replace current; nil: none
	late     *worker   // was not ready in time, and leaves first; nil: none
	failures int       // in a row
	again    time.Time // when current is to be started again
}

// delay returns how long to wait after so many failures in a row: not at all after
// the first, and from then on twice as long each time, less up to a half of it.
func delay(failures int, first, last time.Duration) time.Duration {
	if failures == 0 {
		return 0
	}
	d := first
	for i := 1; i < failures && d < last; i++ {
		d *= 2
	}
	d = min(d, last)
	return d - rand.N(d/2+1)
}

// vacant reports whether a worker is to be started in sl, now or when that is due.
func (sl *slot) vacant() bool { return sl.current == nil && sl.next == nil && sl.late == nil }

// fill starts what is missing and due.
func (s *supervisor) fill(now time.Time) {
	if !s.open || s.ending {
		return
	}
	for _, sl := range s.slots {
		if sl.vacant() && !sl.again.After(now) && !s.ending {
			sl.current = s.start(sl, now)
		}
	}
}

// start starts a worker for sl, or returns nil and makes sl wait for another try.
func (s *supervisor) start(sl *slot, now time.Time) *worker {
	w := s.takePrimed()
	if w == nil {
		var err error
		s.lastID++
		if w, err = s.command.start(s.lastID, startOptions{notify: s.config.NotifyReady, nudge: s.config.nudge}); err == nil {
			err = s.watch(w)
		}
		if err != nil {
			s.unstarted(sl, err, now)
			return nil
		}
		s.workers[w.id] = w
	}
	w.slot, sl.late = sl, nil // a roll waits for nobody
	s.works(w, true)
	s.primeAfter = now.Add(s.config.RestartDelay) // this one needs the processor more
	s.log.Info().Int("pid", w.pid).Msg("worker started")
	if !s.command.Reports {
		s.runs(w, now)
	}
	return w
}

// watch makes the poller tell of w, or ends w.
func (s *supervisor) watch(w *worker) error {
	err := w.watch(s.poller)
	if err != nil { // out of memory, or of watches
		w.signal(killSignal)
		w.close()
		go reapLater(w.pid)
	}
	return err
}

// unstarted notes that nothing could be started for sl.
func (s *supervisor) unstarted(sl *slot, err error, now time.Time) {
	if bad := asStartError(err); bad != nil && !s.everRan {
		s.fail(bad)
		return
	}
	wait := s.postpone(sl, now)
	s.log.Error().Err(err).Int64("delay_ms", wait.Milliseconds()).Msg("worker not started")
}

// postpone counts a failure of sl, and says when it is to be tried again.
func (s *supervisor) postpone(sl *slot, now time.Time) time.Duration {
	wait := delay(sl.failures, s.config.RestartDelay, s.config.RestartMax)
	sl.failures++
	sl.again = now.Add(wait)
	return wait
}

// ended deals with a worker that was reaped.
func (s *supervisor) ended(w *worker, how string, now time.Time) {
	switch {
	case w.slot == nil, s.ending:
		s.log.Info().Int("pid", w.pid).Str("how", how).Msg("worker stopped")
		for _, sl := range s.slots {
			if sl.late == w {
				sl.late = nil
			}
		}
		return
	case w.failed != nil && !s.everRan:
		s.fail(w.failed)
		return
	}
	s.restart(w, how, now)
	why := "a new worker ended: "
	if !w.usable() {
		why = "a new worker ended before it was ready: "
	}
	s.rollFailed(w.roll, why+how, now)
}

// restart starts another worker in the place of one that was reaped, at once or later,
// if there is none.
func (s *supervisor) restart(w *worker, how string, now time.Time) {
	sl := w.slot
	if sl.next == w {
		if sl.next = nil; sl.current == nil {
			s.postpone(sl, now)
		}
		s.log.Error().Int("pid", w.pid).Str("how", how).Msg("new worker ended")
		return
	}
	sl.current = nil
	if s.goodRun(w, now) {
		sl.failures = 0
	}
	e := s.log.Warn().Int("pid", w.pid).Str("how", how)
	if sl.next != nil {
		sl.current, sl.next = sl.next, nil
	} else if wait := s.postpone(sl, now); wait > 0 {
		e = e.Int64("restart_in_ms", wait.Milliseconds())
	} else if s.open {
		sl.current = s.start(sl, now) // before anything else, logging included
	}
	e.Msg("worker ended")
}

// goodRun reports whether w was good for something, so that the next one may start
// at once.
func (s *supervisor) goodRun(w *worker, now time.Time) bool {
	return !w.ran.IsZero() && now.Sub(w.ran) >= s.config.RestartDelay &&
		(w.step == stepReady || !s.config.NotifyReady)
}
