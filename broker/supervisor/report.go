//go:build linux

package supervisor

import (
	"fmt"
	"strings"
	"time"

	"github.com/fdbroker/fdbroker/internal/notify"
)

func reloading() string { return notify.Reloading() }

// reported does what a report of w's asks for.
func (s *supervisor) reported(w *worker, line string, now time.Time) {
	kind, rest, _ := strings.Cut(line, " ")
	switch kind {
	case ReportWaiting:
		w.step = stepWaiting
		s.log.Info().Int("pid", w.pid).Str("why", rest).Msg("worker waits")
	case ReportStandby:
		w.step, w.stood = stepStandby, true
		if w.slot != nil {
			w.due = time.Time{}
		}
		s.log.Info().Int("pid", w.pid).Msg("worker on standby")
	case ReportReplaced:
		w.failed = &StartError{Status: 125, Reason: "replaced by a newer deploy"}
		s.replaced()
	case ReportFailed:
		w.failed = failure(rest)
	}
}

// usableCount is how many slots have a worker that serves, or that is as far as it
// can come.
func (s *supervisor) usableCount() int {
	n := 0
	for _, sl := range s.slots {
		if sl.current.usable() {
			n++
		}
	}
	return n
}

// report tells the manager how the workers are doing, if that has changed, and what
// follows from it that all are ready for the first time.
func (s *supervisor) report(now time.Time) {
	usable := s.usableCount()
	var states []string
	if !s.complete && !s.ending && usable >= s.config.Workers {
		s.complete = true
		s.log.Info().Int("count", usable).Msg("ready")
		if s.config.Deploy != nil {
			s.config.Deploy.Ready()
		}
	}
	if text := s.text(usable); text != s.status {
		s.status = text
		switch {
		case s.ending:
			states = append(states, notify.Stopping)
		case s.complete && s.roll == nil:
			states = append(states, notify.Ready)
		}
		states = append(states, notify.Status(text))
	}
	if d := s.config.Watchdog; d > 0 && now.Sub(s.told) >= d/2 {
		s.told = now
		states = append(states, notify.Alive)
	}
	if len(states) > 0 {
		s.config.Tell(states...)
	}
}

// text describes the workers in one line.
func (s *supervisor) text(usable int) string {
	switch {
	case s.ending:
		return fmt.Sprintf("%s: %d workers left", s.why, s.alive())
	case !s.open:
		return "waiting for the broker"
	}
	text := fmt.Sprintf("%d of %d workers ready", usable, len(s.slots))
	if r := s.roll; r != nil {
		text += fmt.Sprintf(", %d of %d replaced", r.done, r.total)
	}
	if s.rollErr != "" {
		text += "; " + s.rollErr
	}
	return text
}
