package supervisor

import (
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The action for each event of a worker, at each of its steps:
//
//	            reports             runs     READY=1  due                exits
//	prestarted                                                           (see prestart.go)
//	starting    waiting or standby  running           replaceLate        restart
//	waiting     standby             running           replaceLate        restart
//	standby                         running                              restart
//	running                                  ready    ready*             restart
//	ready                                                                restart
//	leaving                                           stop signal, kill  forget
//
// Leaving is a worker without a slot. *With NotifyReady: replaceLate.

// readable reads from a descriptor of a worker.
func (s *supervisor) readable(r ready, now time.Time) {
	if r == requestsID {
		s.readRequests()
		return
	}
	w := s.workers[int64(r>>2)]
	if w == nil {
		return // reaped meanwhile
	}
	switch source(r & 3) {
	case fromReports:
		s.readReports(w, now)
	case fromNotify:
		s.readReadiness(w)
	case fromProcess:
		s.readReports(w, now) // those that it wrote before it exited
		how, exited := w.reap()
		if !exited {
			return
		}
		if w.readiness != nil {
			w.readiness.shutdown() // so reading comes to an end
		}
		s.readReadiness(w)
		w.close()
		delete(s.workers, w.id)
		s.exited(w, how, now)
	}
}

// readReports handles the reports of w. The end of the pipe means that w runs the
// command, or that it has exited, which its pidfd reports.
func (s *supervisor) readReports(w *worker, now time.Time) {
	if w.reports.fd == nil {
		return
	}
	lines, ended := w.reports.read()
	for _, line := range lines {
		s.reported(w, line)
	}
	if !ended {
		return
	}
	w.reports.close()
	if w.slot != nil && w.step < stepRunning && w.failed == nil {
		s.runs(w, now)
	}
}

// reported handles one report of w.
func (s *supervisor) reported(w *worker, line string) {
	kind, rest, _ := strings.Cut(line, " ")
	switch kind {
	case ReportWaiting:
		w.step = stepWaiting
		s.log.Info().Int("pid", w.pid).Str("why", rest).Msg("worker waits")
	case ReportStandby:
		w.step, w.wasStandby = stepStandby, true
		if w.slot != nil {
			w.due = time.Time{}
		}
		s.log.Info().Int("pid", w.pid).Msg("worker on standby")
	case ReportReplaced:
		w.failed = &StartError{Status: 125, Reason: "replaced by a newer deploy"}
		s.replaced()
	case ReportFailed:
		w.failed = parseFailure(rest)
	}
}

// readReadiness makes w ready if it has said so.
func (s *supervisor) readReadiness(w *worker) {
	if w.readiness != nil && saidReady(w.readiness, w.pid) && w.step == stepRunning && w.slot != nil {
		s.becomeReady(w)
	}
}

// overdue handles a worker whose step, or stop, has taken too long.
func (s *supervisor) overdue(w *worker, now time.Time) {
	w.due = time.Time{}
	switch {
	case w.slot == nil && !w.asked:
		w.asked = true
		w.signal(s.config.StopSignal)
		w.due = now.Add(s.config.Grace / 2)
	case w.slot == nil:
		s.log.Warn().Int("pid", w.pid).Int64("grace_ms", s.config.Grace.Milliseconds()).Msg("worker killed: it did not stop in time")
		w.signal(unix.SIGKILL)
	case w.step == stepRunning && !s.config.NotifyReady:
		s.becomeReady(w)
	default:
		reason := "did not say READY=1 in time"
		if w.step < stepRunning {
			reason = "did not get its sockets in time"
		}
		s.log.Error().Int("pid", w.pid).Int64("timeout_ms", s.config.ReadyTimeout.Milliseconds()).Msg("worker stopped: it " + reason)
		s.replaceLate(w, now)
		s.failRoll(w, "new worker "+reason, now)
	}
}

// exited handles a worker that was reaped.
func (s *supervisor) exited(w *worker, how unix.WaitStatus, now time.Time) {
	if w.prestarted {
		s.prestartedExited(w, now)
		return
	}
	s.works(w, false)
	switch {
	case w.slot == nil, s.ending:
		exitOf(s.log.Info(), w, how).Msg("worker stopped")
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
	when := ""
	if !w.usable() {
		when = " before it was ready"
	}
	s.failRoll(w, fmt.Sprintf("new worker exited%s (%s)", when, describe(w, how)), now)
}

// failRoll stops the roll if it has started w.
func (s *supervisor) failRoll(w *worker, why string, now time.Time) {
	if s.roll != nil && w.roll == s.roll.id {
		s.roll.fail(&s.pool, why, now)
	}
}
