// Package closer closes descriptors that another user may have sent. Closing such a descriptor may block for as long as
// its sender likes (SO_LINGER, socket(7)). Its callers decide which to close, and when. Only Wait may block.
package closer

import (
	"sync"
	"time"
)

// Closer runs functions that close descriptors in goroutines of their own: at most one at a time for each owner, so an
// owner blocks no other. The zero value is ready for use. Its methods may be called concurrently.
type Closer struct {
	mu     sync.Mutex
	queues map[any][]func() // of each owner that has a function running: those that wait
	idle   chan struct{}    // closed once queues is empty
}

// Close runs f after all functions that it was given for that owner before, without
// waiting. The owner is any comparable value. To bound its pending functions, an owner asks Busy,
// or lets f report its end. f may outlive a Wait that runs out of time.
func (c *Closer) Close(owner any, f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if queue, busy := c.queues[owner]; busy {
		c.queues[owner] = append(queue, f)
		return
	}
	if len(c.queues) == 0 {
		c.queues, c.idle = make(map[any][]func()), make(chan struct{})
	}
	c.queues[owner] = nil
	go c.run(owner, f)
}

func (c *Closer) run(owner any, f func()) {
	for f != nil {
		f()
		f = c.next(owner)
	}
}

// next removes the owner's next function from its queue, or the queue if it is empty.
func (c *Closer) next(owner any) func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if queue := c.queues[owner]; len(queue) > 0 {
		c.queues[owner] = queue[1:]
		return queue[0]
	}
	if delete(c.queues, owner); len(c.queues) == 0 {
		close(c.idle)
	}
	return nil
}

// Busy reports whether a function of that owner runs.
func (c *Closer) Busy(owner any) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, busy := c.queues[owner]
	return busy
}

// Wait waits until no function runs, but no longer than limit. It reports whether none does.
func (c *Closer) Wait(limit time.Duration) bool {
	c.mu.Lock()
	idle, busy := c.idle, len(c.queues) > 0
	c.mu.Unlock()
	if !busy {
		return true
	}
	select {
	case <-idle:
		return true
	case <-time.After(limit):
		return false
	}
}
