//go:build linux

package supervisor

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

const killSignal = unix.SIGKILL

// supervisor is the state of a [Run]: one goroutine owns it. What happens changes
// it, and settle then does what is to be done.
type supervisor struct {
	config  Config
	command Command
	log     zerolog.Logger
	poller  *poller
	timer   *time.Timer

	workers map[int32]*worker // that were not reaped yet
	lastID  int32
	slots   []*slot
	roll    *roll // nil: none is under way
	rollErr string

	primed     *worker // was started ahead, and waits; nil: none
	primeAfter time.Time

	open     bool   // workers may be started
	everRan  bool   // the command can be executed
	complete bool   // enough were ready once
	ending   bool   // nothing is started any more
	why      string // what status says of that
	err      error  // what Run returns
	told     time.Time
	status   string // what Tell was told last
}

// Run keeps workers alive until ctx is done, SIGTERM or SIGINT comes, or a newer
// deploy has replaced this one, and returns nil when all of them have ended. A
// command that cannot be executed is a *[StartError]. Signals are what comes to the
// process: SIGHUP replaces all workers, SIGTTIN and SIGTTOU make them one more and
// one less.
func Run(ctx context.Context, c Config, signals <-chan os.Signal) error {
	c, err := c.withDefaults()
	if err != nil {
		return err
	}
	p, err := newPoller()
	if err != nil {
		return err
	}
	defer p.close()
	s := &supervisor{config: c, command: c.Command, log: c.Logger, poller: p, workers: make(map[int32]*worker)}
	s.command.Env = slices.Clip(s.command.Env)
	for range c.Workers + c.Standby {
		s.slots = append(s.slots, new(slot))
	}
	s.timer = time.NewTimer(time.Hour)
	defer s.timer.Stop()
	events, stop := s.deployed(ctx)
	defer stop()
	s.loop(ctx, events, signals)
	return s.err
}

// loop is the supervisor's life.
func (s *supervisor) loop(ctx context.Context, events <-chan DeployEvent, signals <-chan os.Signal) {
	done := ctx.Done()
	for {
		s.settle(time.Now())
		if s.ending && len(s.workers) == 0 {
			return
		}
		select {
		case <-done:
			done = nil
			s.stop(time.Now())
		case sig := <-signals:
			s.signalled(sig, time.Now())
		case batch := <-s.poller.found:
			s.found(batch, events, time.Now())
			s.poller.next <- struct{}{}
		case <-s.timer.C:
		case e := <-events:
			s.deploy(e, time.Now())
		}
	}
}

// found deals with what the poller has found, after what has become of the deploy
// meanwhile: of one that was replaced no worker is started again.
func (s *supervisor) found(batch []ready, events <-chan DeployEvent, now time.Time) {
	select {
	case e := <-events:
		s.deploy(e, now)
	default:
	}
	for _, r := range batch {
		s.readable(r, now)
	}
	s.settle(now) // starts what is to be started again, before the poller is looked after
}

// settle does what is due and what follows from what has happened.
func (s *supervisor) settle(now time.Time) {
	s.fill(now)
	for _, w := range s.workers {
		if !w.due.IsZero() && !w.due.After(now) {
			s.overdue(w, now)
		}
	}
	s.advance(now)
	s.fill(now)
	s.report(now)
	s.prime(now)
	s.arm(now)
}

// arm sets the timer to what is due next. Where nothing is, nothing wakes up.
func (s *supervisor) arm(now time.Time) {
	var next time.Time
	due := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	for _, w := range s.workers {
		due(w.due)
	}
	for _, sl := range s.slots {
		if s.open && !s.ending && sl.vacant() {
			due(sl.again)
		}
	}
	if s.roll != nil {
		due(s.roll.due)
	}
	if s.mayPrime() {
		due(s.primeAfter)
	}
	if s.config.Watchdog > 0 {
		due(s.told.Add(s.config.Watchdog / 2))
	}
	if next.IsZero() {
		s.timer.Stop()
		return
	}
	s.timer.Reset(max(next.Sub(now), 0))
}

// readable reads what a worker's descriptor has.
func (s *supervisor) readable(r ready, now time.Time) {
	w := s.workers[r.worker]
	if w == nil {
		return // reaped meanwhile
	}
	switch r.source {
	case fromStatus:
		s.read(w, now)
	case fromNotify:
		s.notified(w)
	case fromProcess:
		s.read(w, now) // its last words
		how, ended := w.reap()
		if !ended {
			return
		}
		if w.notify != nil {
			w.notify.shutdown() // so that there is an end to what comes
		}
		s.notified(w)
		w.close()
		delete(s.workers, w.id)
		if w.ahead {
			if w == s.primed {
				s.primed, s.primeAfter = nil, now.Add(s.config.RestartMax)
			}
			return
		}
		s.works(w, false)
		s.ended(w, describe(how), now)
	}
}

// read reads what w reports.
func (s *supervisor) read(w *worker, now time.Time) {
	if w.reports.fd < 0 {
		return
	}
	lines, ended := w.reports.read()
	for _, line := range lines {
		s.reported(w, line, now)
	}
	if !ended {
		return
	}
	w.reports.close()
	if w.slot == nil {
		return // it ends
	}
	if w.step < stepRunning && w.failed == nil { // or it was killed, which is seen in a moment
		s.runs(w, now)
	}
}

// runs notes that w has become the command.
func (s *supervisor) runs(w *worker, now time.Time) {
	s.everRan = true
	w.step, w.ran = stepRunning, now
	if w.slot == nil {
		return // due is when it is killed
	}
	switch {
	case s.config.NotifyReady:
		w.due = now.Add(s.config.ReadyTimeout)
	case s.config.ReadyAfter <= 0:
		s.isReady(w)
	default:
		w.due = now.Add(s.config.ReadyAfter)
	}
}

func (s *supervisor) notified(w *worker) {
	if w.notify != nil && w.notify.read(w.pid) && w.step == stepRunning && w.slot != nil {
		s.isReady(w)
	}
}

func (s *supervisor) isReady(w *worker) {
	w.step, w.due = stepReady, time.Time{}
	s.log.Info().Int("pid", w.pid).Msg("worker ready")
	s.repay(w)
}

// overdue deals with a worker that has not done in time what it was to do.
func (s *supervisor) overdue(w *worker, now time.Time) {
	w.due = time.Time{}
	switch {
	case w.slot == nil && !w.told:
		w.told = true
		w.signal(s.config.StopSignal)
		w.due = now.Add(s.config.Grace / 2)
	case w.slot == nil:
		s.log.Warn().Int("pid", w.pid).Int64("grace_ms", s.config.Grace.Milliseconds()).Msg("worker killed: it has not stopped in time")
		w.signal(killSignal)
	case w.step == stepRunning && !s.config.NotifyReady:
		s.isReady(w)
	default:
		s.late(w, now)
	}
}

// late stops a worker that should have been ready by now. The next one in its place is
// not started before it has left: else they would be ever more, where they ignore that.
func (s *supervisor) late(w *worker, now time.Time) {
	reason := "it has not said READY=1 in time"
	if w.step < stepRunning {
		reason = "it has not got its sockets in time"
	}
	s.log.Error().Int("pid", w.pid).Int64("timeout_ms", s.config.ReadyTimeout.Milliseconds()).Msg("worker stopped: " + reason)
	sl := w.slot
	if sl.next == w {
		sl.next = nil
	} else {
		sl.current, sl.next = sl.next, nil
	}
	if sl.current == nil {
		s.postpone(sl, now)
		sl.late = w
	}
	s.leave(w, now)
	s.rollFailed(w.roll, "new worker: "+reason, now)
}

// asStartError returns the *StartError that err is, or nil.
func asStartError(err error) *StartError {
	bad, _ := errors.AsType[*StartError](err)
	return bad
}

// reapLater waits for a process that nobody watches; it has been killed.
func reapLater(pid int) { _, _ = unix.Wait4(pid, nil, 0, nil) }
