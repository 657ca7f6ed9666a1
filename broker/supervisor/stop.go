//go:build linux

package supervisor

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// signalled does what a signal asks for.
func (s *supervisor) signalled(sig os.Signal, now time.Time) {
	switch sig {
	case unix.SIGHUP:
		s.beginRoll(now)
	case unix.SIGTTIN:
		s.more()
	case unix.SIGTTOU:
		s.less(now)
	case unix.SIGINT:
		if s.stopping() {
			s.kill()
			return
		}
		s.stopAll(now, foreground())
	case unix.SIGTERM:
		if s.stopping() {
			s.kill()
			return
		}
		s.stop(now)
	}
}

// stopping reports whether all workers have been asked to end.
func (s *supervisor) stopping() bool {
	if !s.ending {
		return false
	}
	for _, w := range s.workers {
		if w.slot != nil {
			return false
		}
	}
	return true
}

// stop asks all workers to end.
func (s *supervisor) stop(now time.Time) { s.stopAll(now, false) }

// stopAll asks all workers to end. Where they have had a signal of the terminal's,
// which a second one might not make more polite, they get half of the time before.
func (s *supervisor) stopAll(now time.Time, interrupted bool) {
	s.end("stopping")
	s.log.Info().Int("count", s.alive()).Msg("stopping")
	for _, w := range s.workers {
		if w.slot == nil {
			continue
		}
		if interrupted && !w.ran.IsZero() {
			w.slot, w.due = nil, now.Add(s.config.Grace/2)
			continue
		}
		s.leave(w, now)
	}
}

// end makes the supervisor start nothing any more. It is over when no worker is left.
func (s *supervisor) end(why string) {
	s.ending, s.why, s.roll = true, why, nil
	s.dropPrimed()
}

// fail ends it all, as the command cannot be executed.
func (s *supervisor) fail(err *StartError) {
	if s.ending {
		return
	}
	s.err = err
	s.stop(time.Now())
}

// leave asks w to end, and forgets its slot.
func (s *supervisor) leave(w *worker, now time.Time) {
	w.slot, w.told, w.rolling = nil, true, false
	w.due = now.Add(s.config.Grace)
	if w.ran.IsZero() {
		w.signal(unix.SIGTERM) // what waits for the sockets knows no other
		return
	}
	w.signal(s.config.StopSignal)
}

// kill ends all workers at once.
func (s *supervisor) kill() {
	s.log.Warn().Int("count", s.alive()).Msg("killing: stopped once more")
	for _, w := range s.workers {
		w.due = time.Time{}
		w.signal(killSignal)
	}
}

// more makes the workers one more.
func (s *supervisor) more() {
	if s.ending {
		return
	}
	s.config.Workers++
	s.slots = append(s.slots, new(slot))
	s.log.Info().Int("count", s.config.Workers).Msg("one worker more")
}

// less makes the workers one less: the last of those that are not ready, if there are
// any, else the last of all. A single one stays.
func (s *supervisor) less(now time.Time) {
	if s.ending {
		return
	}
	if s.config.Workers == 1 {
		s.log.Warn().Msg("the last worker stays")
		return
	}
	s.config.Workers--
	at := len(s.slots) - 1
	for i, sl := range s.slots {
		if !sl.current.usable() {
			at = i
		}
	}
	sl := s.slots[at]
	s.slots = append(s.slots[:at], s.slots[at+1:]...)
	for _, w := range []*worker{sl.current, sl.next} {
		if w != nil {
			s.leave(w, now)
		}
	}
	s.log.Info().Int("count", s.config.Workers).Msg("one worker less")
}

// foreground reports whether this process's group is the one that a terminal sends
// signals to.
func foreground() bool {
	tty, err := unix.Open("/dev/tty", unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer unix.Close(tty)
	group, err := unix.IoctlGetInt(tty, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}
