package supervisor

import (
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/fdbroker/fdbroker/internal/closer"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// pool is the workers and the slots that they fill. It starts workers, and asks them to
// leave; the supervisor decides when.
type pool struct {
	config Config // the environment is the deploy's
	log    zerolog.Logger
	poller *poller
	closer closer.Closer

	workers map[int64]*worker // that were not reaped yet
	lastID  int64
	slots   []*slot
	roll    *roll // nil: none is under way

	prestarted    *worker // nil: none
	prestartAfter time.Time

	open    bool        // workers may be started
	ending  bool        // no worker is started any more
	everRan bool        // the command could be executed once
	fatal   *StartError // it cannot be executed
}

// delay returns how long to wait after so many failures in a row: not at all after the
// first, then twice as long each time, less up to a half of it.
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

// fill starts the workers that are missing and due.
func (p *pool) fill(now time.Time) {
	if !p.open || p.ending {
		return
	}
	for _, sl := range p.slots {
		if p.fatal == nil && sl.vacant() && !sl.again.After(now) {
			sl.current = p.start(sl, now)
		}
	}
}

// start starts a worker for sl, or returns nil and makes sl wait for another attempt.
func (p *pool) start(sl *slot, now time.Time) *worker {
	w := p.startQuietly(sl, now)
	p.started(w, now)
	return w
}

// startQuietly is start before the log is told: started must follow.
func (p *pool) startQuietly(sl *slot, now time.Time) *worker {
	w := p.takePrestarted()
	if w == nil {
		var err error
		if w, err = p.newWorker(false); err != nil {
			p.notStarted(sl, err, now)
			return nil
		}
	}
	w.slot, sl.late = sl, nil // a roll does not wait for a late worker
	p.works(w, true)
	p.prestartAfter = now.Add(p.config.RestartDelay) // until then this worker needs the processor more
	return w
}

// started logs the start of w, which may be nil. A worker that does not report runs from now on.
func (p *pool) started(w *worker, now time.Time) {
	if w == nil {
		return
	}
	p.log.Info().Int("pid", w.pid).Msg("worker started")
	if !p.config.Command.Reports {
		p.runs(w, now)
	}
}

// newWorker starts a process that the poller reports.
func (p *pool) newWorker(prestart bool) (*worker, error) {
	p.lastID++
	w, err := startWorker(&p.config, &p.closer, p.lastID, prestart)
	if err == nil {
		err = w.watch(p.poller)
	}
	if err != nil {
		return nil, err
	}
	p.workers[w.id] = w
	return w, nil
}

// notStarted notes that no worker could be started for sl.
func (p *pool) notStarted(sl *slot, err error, now time.Time) {
	if bad, ok := errors.AsType[*StartError](err); ok && !p.everRan {
		p.fatal = bad
		return
	}
	wait := p.postpone(sl, now)
	p.log.Error().Err(err).Int64("delay_ms", wait.Milliseconds()).Msg("worker not started")
}

// works tells the deploy whether w is one of its workers.
func (p *pool) works(w *worker, works bool) {
	if p.config.Deploy != nil {
		p.config.Deploy.Works(w.pid, works)
	}
}

// postpone counts a failure of sl and returns how long it waits for the next attempt.
func (p *pool) postpone(sl *slot, now time.Time) time.Duration {
	wait := delay(sl.failures, p.config.RestartDelay, p.config.RestartMax)
	sl.failures++
	sl.again = now.Add(wait)
	return wait
}

// runs notes that w has become the command.
func (p *pool) runs(w *worker, now time.Time) {
	p.everRan = true
	w.step, w.ran = stepRunning, now
	switch {
	case w.slot == nil: // due says when it is killed
	case p.config.NotifyReady:
		w.due = now.Add(p.config.ReadyTimeout)
	case p.config.ReadyAfter <= 0:
		p.becomeReady(w)
	default:
		w.due = now.Add(p.config.ReadyAfter)
	}
}

func (p *pool) becomeReady(w *worker) {
	w.step, w.due = stepReady, time.Time{}
	p.log.Info().Int("pid", w.pid).Msg("worker ready")
	if p.roll != nil && w.wasStandby {
		p.roll.owed = max(p.roll.owed-1, 0)
	}
}

// restart starts another worker in the slot of w, which has exited: at once, or later, or
// not at all if there is another one already.
func (p *pool) restart(w *worker, how unix.WaitStatus, now time.Time) {
	sl := w.slot
	if sl.next == w {
		if sl.next = nil; sl.current == nil {
			p.postpone(sl, now)
		}
		exitOf(p.log.Error(), w, how).Msg("new worker exited")
		return
	}
	sl.current = nil
	if p.goodRun(w, now) {
		sl.failures = 0
	}
	e := exitOf(p.log.Warn(), w, how)
	if sl.next != nil {
		sl.current, sl.next = sl.next, nil
	} else if wait := p.postpone(sl, now); wait > 0 {
		e = e.Int64("restart_in_ms", wait.Milliseconds())
	} else if p.open {
		sl.current = p.startQuietly(sl, now) // before anything else, logging included
		defer p.started(sl.current, now)
	}
	e.Msg("worker exited")
}

// goodRun reports whether w ran so well that the next worker may start at once.
func (p *pool) goodRun(w *worker, now time.Time) bool {
	return !w.ran.IsZero() && now.Sub(w.ran) >= p.config.RestartDelay &&
		(w.step == stepReady || !p.config.NotifyReady)
}

// replaceLate asks w to leave, which should have been ready by now. The next worker in its
// slot starts after it has exited; else workers that ignore the stop signal would pile up.
func (p *pool) replaceLate(w *worker, now time.Time) {
	sl := w.slot
	if sl.next == w {
		sl.next = nil
	} else {
		sl.current, sl.next = sl.next, nil
	}
	if sl.current == nil {
		p.postpone(sl, now)
		sl.late = w
	}
	p.leave(w, now)
}

// leave asks w to leave, and frees its slot.
func (p *pool) leave(w *worker, now time.Time) {
	w.slot, w.asked, w.replacing = nil, true, false
	w.due = now.Add(p.config.Grace)
	if w.ran.IsZero() {
		w.signal(unix.SIGTERM) // it is not the command yet, which may want another signal
		return
	}
	w.signal(p.config.StopSignal)
}

// alive returns how many workers there are, including those that were asked to leave.
func (p *pool) alive() int {
	n := 0
	for _, w := range p.workers {
		if !w.prestarted {
			n++
		}
	}
	return n
}

// usable returns how many slots have a usable worker.
func (p *pool) usable() int {
	n := 0
	for _, sl := range p.slots {
		if sl.current.usable() {
			n++
		}
	}
	return n
}

// addSlot makes the workers one more.
func (p *pool) addSlot() {
	if p.ending {
		return
	}
	p.config.Workers++
	p.slots = append(p.slots, new(slot))
	p.log.Info().Int("count", p.config.Workers).Msg("one worker more")
}

// removeSlot makes the workers one less: the last that is not usable, else the last. A single worker stays.
func (p *pool) removeSlot(now time.Time) {
	if p.ending {
		return
	}
	if p.config.Workers == 1 {
		p.log.Warn().Msg("the last worker stays")
		return
	}
	p.config.Workers--
	at := len(p.slots) - 1
	for i, sl := range p.slots {
		if !sl.current.usable() {
			at = i
		}
	}
	sl := p.slots[at]
	p.slots = slices.Delete(p.slots, at, at+1)
	for _, w := range []*worker{sl.current, sl.next} {
		if w != nil {
			p.leave(w, now)
		}
	}
	p.log.Info().Int("count", p.config.Workers).Msg("one worker less")
}
