package supervisor

import "context"

// Deploy connects the workers of a [Run] with other runs of the same service.
type Deploy interface {
	// Follow calls each with the events of the deploy until ctx is done. The first event has
	// its generation; no worker starts before that.
	Follow(ctx context.Context, each func(DeployEvent))
	// Ready says that all workers are ready for the first time. It must not block.
	Ready()
	// Works says whether a process is one of the deploy's workers from now on. It must not block.
	Works(pid int, works bool)
}

// DeployEvent is a change of a deploy.
type DeployEvent struct {
	Generation int64 // of the deploy from now on; 0: as before
	Replaced   bool  // a newer deploy has taken over, and its broker asks the workers to leave
	Unasked    bool  // the broker has not asked all of them
	Asked      []int // with Unasked: the pids of those that it has asked
	Roll       bool  // the broker asks for new workers in place of all
	Err        error // the deploy cannot begin
}

// follow returns the events of d, and a function that ends them.
func follow(ctx context.Context, d Deploy) (<-chan DeployEvent, func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	events, done := make(chan DeployEvent), make(chan struct{})
	go func() {
		defer close(done)
		d.Follow(ctx, func(e DeployEvent) {
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
