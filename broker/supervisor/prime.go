//go:build linux

package supervisor

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// StartEnv names, in the environment of a [Command] that is started ahead, the
// descriptor of a pipe. The command reads it before it asks for the worker's socket: a
// byte means that the time has come, the end that it never will.
const StartEnv = "FDCLIENT_START_FD"

// mayPrime reports whether all workers run, or are on standby, and none was started
// ahead.
func (s *supervisor) mayPrime() bool {
	return s.command.Prime && s.open && !s.ending && s.primed == nil && s.roll == nil &&
		!slices.ContainsFunc(s.slots, func(sl *slot) bool { return sl.current == nil || sl.current.step < stepStandby })
}

// prime starts a worker ahead, which then waits for its start: so the next one that is
// needed is there sooner.
func (s *supervisor) prime(now time.Time) {
	if s.primeAfter.After(now) || !s.mayPrime() {
		return
	}
	s.lastID++
	w, err := s.command.start(s.lastID, startOptions{notify: s.config.NotifyReady, nudge: s.config.nudge, ahead: true})
	if err == nil {
		err = s.watch(w)
	}
	if err != nil {
		s.primeAfter = now.Add(s.config.RestartMax)
		s.log.Warn().Err(err).Msg("no worker started ahead")
		return
	}
	s.primed, s.workers[w.id] = w, w
}

// takePrimed returns the worker that was started ahead, which now starts, or nil.
func (s *supervisor) takePrimed() *worker {
	w := s.primed
	if w == nil {
		return nil
	}
	s.primed, w.ahead = nil, false
	_, _ = unix.Write(w.gate, []byte{1}) // if it has ended, that is seen in a moment
	w.closeGate()
	return w
}

// dropPrimed makes the worker that was started ahead end.
func (s *supervisor) dropPrimed() {
	if s.primed != nil {
		s.primed.closeGate()
		s.primed = nil
	}
}

func (w *worker) closeGate() {
	if w.gate >= 0 {
		_ = unix.Close(w.gate)
	}
	w.gate = -1
}
