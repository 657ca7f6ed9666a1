// Package supervisor keeps a number of workers alive: processes that all run the same command. It starts another worker
// for each that ends, replaces workers new-first, and stops them.
//
// It may start, signal and reap its own workers, and answer those who ask for a roll, and nothing else. It never talks to
// a broker, and does not know how a worker gets its sockets: a [Deploy] does. One goroutine owns all of its state and
// must never block.
package supervisor

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fdbroker/fdbroker/internal/notify"
	"github.com/fdbroker/fdbroker/protocol"
	"golang.org/x/sys/unix"
)

// supervisor is the state of a [Run]. One goroutine owns it: it handles an event, and then calls act.
type supervisor struct {
	pool
	timer    *time.Timer
	rolls    int       // how many there have been
	rollErr  string    // of the last roll
	requests *mailbox  // for requests of a roll; nil: none
	asking   []request // that wait for the end of a roll

	complete    bool   // all workers were ready once
	why         string // it is ending
	err         error  // of Run
	fedWatchdog time.Time
	status      string // that Tell was called with last
}

// Run keeps workers alive until ctx is done, SIGTERM or SIGINT comes, or a newer deploy has replaced this one. It
// returns nil when all workers have exited. If the command cannot be executed, the error is a *[StartError]. Signals
// are those that the process gets: SIGHUP replaces all workers, SIGTTIN and SIGTTOU make them one more and one less.
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
	s := &supervisor{pool: pool{config: c, log: c.Logger, poller: p, workers: make(map[int64]*worker)}}
	for range c.Workers + c.Standby {
		s.slots = append(s.slots, new(slot))
	}
	s.timer = time.NewTimer(time.Hour)
	defer s.timer.Stop()
	var events <-chan DeployEvent
	if c.Deploy == nil {
		s.open = true
	} else {
		var stop func()
		events, stop = follow(ctx, c.Deploy)
		defer stop()
	}
	s.openRequests()
	defer s.closeRequests()
	s.loop(ctx, events, signals)
	return s.err
}

func (s *supervisor) loop(ctx context.Context, events <-chan DeployEvent, signals <-chan os.Signal) {
	done := ctx.Done()
	for {
		s.act(time.Now())
		if s.ending && len(s.workers) == 0 {
			return
		}
		select {
		case <-done:
			done = nil
			s.stop(time.Now(), false)
		case sig := <-signals:
			s.signalled(sig, time.Now())
		case batch := <-s.poller.batches:
			s.handle(batch, events, time.Now())
			s.poller.next <- struct{}{}
		case <-s.timer.C:
		case e := <-events:
			s.deployed(e, time.Now())
		}
	}
}

// handle handles a batch of the poller, but first an event of the deploy: after a replacement
// no worker may start again.
func (s *supervisor) handle(batch []ready, events <-chan DeployEvent, now time.Time) {
	select {
	case e := <-events:
		s.deployed(e, now)
	default:
	}
	for _, r := range batch {
		s.readable(r, now)
	}
	s.act(now) // starts other workers before the poller goes on
}

// act does everything that is due after the last events.
func (s *supervisor) act(now time.Time) {
	s.fill(now)
	for _, w := range s.workers {
		if !w.due.IsZero() && !w.due.After(now) {
			s.overdue(w, now)
		}
	}
	for s.roll != nil && s.roll.advance(&s.pool, now) {
		s.endRoll()
	}
	s.fill(now)
	if s.fatal != nil {
		s.fail(s.fatal)
	}
	s.report(now)
	if s.roll == nil {
		s.prestart(now)
	}
	s.arm(now)
}

// arm sets the timer to the next time that something is due.
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
	} else if s.mayPrestart() {
		due(s.prestartAfter)
	}
	if s.config.Watchdog > 0 {
		due(s.fedWatchdog.Add(s.config.Watchdog / 2))
	}
	if next.IsZero() {
		s.timer.Stop()
		return
	}
	s.timer.Reset(max(next.Sub(now), 0))
}

// beginRoll begins a roll, or makes another one follow the one under way.
func (s *supervisor) beginRoll() {
	switch {
	case s.ending || !s.open:
		return
	case s.roll != nil:
		s.roll.again = true
		s.log.Info().Msg("another roll follows this one")
		return
	}
	s.rolls++
	s.roll = newRoll(s.rolls, s.slots)
	s.log.Info().Int("count", s.roll.total).Msg("replacing the workers")
	s.config.Tell(notify.Reloading())
}

func (s *supervisor) endRoll() {
	r := s.roll
	s.roll, s.rollErr = nil, r.failure
	if r.failure == "" {
		s.log.Info().Int("count", r.done).Msg("workers replaced")
	}
	s.answerRoll(r)
	s.status = "" // so report says READY=1, which ends the reload
	if r.again {
		s.beginRoll()
	}
}

// deployed handles an event of the deploy.
func (s *supervisor) deployed(e DeployEvent, now time.Time) {
	switch {
	case e.Err != nil && !s.ending:
		s.err = e.Err
		s.stop(now, false)
	case e.Replaced:
		s.replaced()
	case e.Unasked:
		s.askWorkers(e.Asked)
	case e.Roll:
		s.beginRoll()
	case e.Generation != 0:
		s.open = true
		s.dropPrestarted() // it has another generation
		old := func(kv string) bool { return strings.HasPrefix(kv, protocol.GenerationEnv+"=") }
		env := slices.DeleteFunc(slices.Clone(s.config.Command.Env), old)
		s.config.Command.Env = append(env, protocol.GenerationEnv+"="+strconv.FormatInt(e.Generation, 10))
	}
}

// replaced starts no worker any more, because the broker asks the workers to leave.
func (s *supervisor) replaced() {
	if s.ending {
		return
	}
	s.end("told to leave by a newer deploy, or by 'fdclient drain'")
	s.log.Info().Int("count", s.alive()).Msg("told to leave by a newer deploy, or by 'fdclient drain'")
}

// askWorkers asks the workers to leave as the broker would have, but for those that it has asked.
func (s *supervisor) askWorkers(asked []int) {
	for _, w := range s.workers {
		switch {
		case w.asked, slices.Contains(asked, w.pid):
		case w.ran.IsZero():
			w.signal(unix.SIGTERM) // as pool.leave does
		case s.config.DrainSignal != 0:
			w.signal(s.config.DrainSignal)
		}
	}
}
