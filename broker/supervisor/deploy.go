//go:build linux

package supervisor

import (
	"context"
	"strconv"
	"time"

	"github.com/fdbroker/fdbroker/protocol"
	"golang.org/x/sys/unix"
)

// GenerationEnv names, in the environment of a worker, the deploy that it belongs to.
const GenerationEnv = protocol.GenerationEnv

// Deploy is what the workers of a [Run] are to the rest of the world: one deploy
// among others that start the same thing.
type Deploy interface {
	// Follow tells each of what becomes of the deploy until ctx is done. The first
	// event has its generation; no worker starts before that.
	Follow(ctx context.Context, each func(DeployEvent))
	// Ready says that enough workers are ready for the first time. It must not block.
	Ready()
	// Works says that a process is one of the deploy's workers from now on, or no
	// longer. It must not block.
	Works(pid int, works bool)
}

// DeployEvent is what becomes of a deploy.
type DeployEvent struct {
	Generation int64 // the deploy's, from now on; 0: as before
	Replaced   bool  // a newer deploy has taken over, and asks the workers to leave
	Unasked    bool  // it cannot ask all of them
	Err        error // it cannot begin
}

// deployed returns what becomes of the deploy, and what ends that.
func (s *supervisor) deployed(ctx context.Context) (<-chan DeployEvent, func()) {
	if s.config.Deploy == nil {
		s.open = true
		return nil, func() {}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	events, done := make(chan DeployEvent), make(chan struct{})
	go func() {
		defer close(done)
		s.config.Deploy.Follow(ctx, func(e DeployEvent) {
			select {
			case events <- e:
			case <-ctx.Done():
			}
		})
	}()
	return events, func() {
		cancel()
		<-done
	}
}

// works tells the deploy of a worker.
func (s *supervisor) works(w *worker, works bool) {
	if s.config.Deploy != nil {
		s.config.Deploy.Works(w.pid, works)
	}
}

// deploy takes note of what has become of the deploy.
func (s *supervisor) deploy(e DeployEvent, now time.Time) {
	switch {
	case e.Err != nil && !s.ending:
		s.err = e.Err
		s.stop(now)
	case e.Replaced:
		s.replaced()
	case e.Unasked:
		s.askWorkers()
	case e.Generation != 0:
		s.open = true
		s.dropPrimed() // it is of another generation
		env := s.config.Command.Env
		s.command.Env = append(env[:len(env):len(env)], GenerationEnv+"="+strconv.FormatInt(e.Generation, 10))
	}
}

// replaced lets the workers leave: the broker has asked them to.
func (s *supervisor) replaced() {
	if s.ending {
		return
	}
	s.end("asked to leave, by a newer deploy or a drain")
	s.log.Info().Int("count", s.alive()).Msg("asked to leave, by a newer deploy or a drain")
}

// askWorkers asks the workers to leave as the broker would have.
func (s *supervisor) askWorkers() {
	for _, w := range s.workers {
		switch {
		case w.told:
		case w.ran.IsZero():
			w.signal(unix.SIGTERM) // as in leave
		case s.config.DrainSignal != 0:
			w.signal(s.config.DrainSignal)
		}
	}
}
