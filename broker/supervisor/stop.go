package supervisor

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// signalled handles a signal.
func (s *supervisor) signalled(sig os.Signal, now time.Time) {
	switch sig {
	case unix.SIGHUP:
		s.beginRoll()
	case unix.SIGTTIN:
		s.addSlot()
	case unix.SIGTTOU:
		s.removeSlot(now)
	case unix.SIGINT, unix.SIGTERM:
		if s.stopping() {
			s.kill()
			return
		}
		s.stop(now, sig == unix.SIGINT && foreground())
	}
}

// stopping reports whether all workers were asked to leave.
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

// stop asks all workers to leave. If a terminal has interrupted them already, many would
// take a second signal as an order to end at once, so they first get half of the grace.
func (s *supervisor) stop(now time.Time, interrupted bool) {
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

// end makes the supervisor start no worker any more. Run returns when all have exited.
func (s *supervisor) end(why string) {
	s.ending, s.why, s.roll = true, why, nil
	s.refuseAll()
	s.dropPrestarted()
}

// fail stops everything, because the command cannot be executed.
func (s *supervisor) fail(err *StartError) {
	if !s.ending {
		s.err = err
		s.stop(time.Now(), false)
	}
}

// kill ends all workers at once.
func (s *supervisor) kill() {
	s.log.Warn().Int("count", s.alive()).Msg("killing the workers: told to stop a second time")
	for _, w := range s.workers {
		w.due = time.Time{}
		w.signal(unix.SIGKILL)
	}
}

// foreground reports whether a terminal sends its signals to this process's group.
func foreground() bool {
	tty, err := unix.Open("/dev/tty", unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer unix.Close(tty)
	group, err := unix.IoctlGetInt(tty, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}
