package fdtest

import (
	"sync"
	"testing"
	"time"
)

// ClientCount is how many ask at a time with [Clients].
const ClientCount = 4

// Clients calls ask from a few goroutines, in each with a pause before every call: a load, not a flood. It goes on
// until the test ends, or until stop, which waits for the calls under way and may be called more than once.
func Clients(t testing.TB, pause time.Duration, ask func()) (stop func()) {
	quit := make(chan struct{})
	var running sync.WaitGroup
	stop = sync.OnceFunc(func() {
		close(quit)
		running.Wait()
	})
	t.Cleanup(stop)
	for range ClientCount {
		running.Go(func() {
			for {
				select {
				case <-quit:
					return
				case <-time.After(pause):
					ask()
				}
			}
		})
	}
	return stop
}
