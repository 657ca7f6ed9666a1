package supervisor_test

import (
	"context"
	"sync"
	"syscall"

	"github.com/fdbroker/fdbroker/broker/supervisor"
)

// census is a deploy without a broker. It counts the workers exactly, because the supervisor
// calls it after each start, before it does anything else.
type census struct {
	mu   sync.Mutex
	pids map[int]struct{}
	max  int
}

func newCensus() *census { return &census{pids: make(map[int]struct{})} }

func (c *census) Follow(ctx context.Context, each func(supervisor.DeployEvent)) {
	each(supervisor.DeployEvent{Generation: 1})
	<-ctx.Done()
}

func (c *census) Ready() {}

func (c *census) Works(pid int, works bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !works {
		delete(c.pids, pid)
		return
	}
	c.pids[pid] = struct{}{}
	n := 0
	for pid := range c.pids {
		if syscall.Kill(pid, 0) == nil { // or it was not reaped yet
			n++
		}
	}
	c.max = max(c.max, n)
}

// most returns how many workers there were at once since the last call.
func (c *census) most() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.max
	c.max = 0
	return n
}
