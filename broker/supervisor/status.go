package supervisor

import (
	"fmt"
	"time"

	"github.com/fdbroker/fdbroker/internal/notify"
)

// report tells the service manager how the workers are, if that has changed, and the deploy
// once all workers are ready for the first time.
func (s *supervisor) report(now time.Time) {
	usable := s.usable()
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
	if d := s.config.Watchdog; d > 0 && now.Sub(s.fedWatchdog) >= d/2 {
		s.fedWatchdog = now
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
	text, failed := fmt.Sprintf("%d of %d workers ready", usable, len(s.slots)), s.rollErr
	if r := s.roll; r != nil {
		text += fmt.Sprintf(", %d of %d replaced", r.done, r.total)
		failed = r.failure
	}
	if failed != "" {
		text += "; " + failed
	}
	return text
}
