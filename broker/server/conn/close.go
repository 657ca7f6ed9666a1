package conn

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/scmrights"
)

// Closing a descriptor that a client sent may block for as long as the client likes, for instance a socket with
// SO_LINGER (docs/kernel.md, SCM_RIGHTS). The loop never closes one, nor a connection in which one may wait unread: a
// goroutine does, one per connection, and the connection counts as a client until it is done. That bounds them.

const (
	stopTime  = time.Second            // for calls under way when the broker is stopping, and again once they were cut off
	closeTime = 100 * time.Millisecond // for closes that may block, at the end
)

// close ends the connection, and what is parked on it.
func (c *Conn) close() {
	if c.closed {
		return
	}
	c.closed = true
	delete(c.loop.conns, c.number)
	c.Done()
	if c.unsent != nil {
		c.unsent()
	}
	c.closeWindow()
	c.loop.cfg.Handler.Closed(c, c.loop.stopping)
	if fds := append(c.garbage, c.fds...); len(fds) > 0 {
		c.garbage, c.fds = nil, nil
		c.loop.closer.Close(c, func() { scmrights.CloseAll(fds) })
	}
	c.hangUp(func() { c.loop.dismiss(&c.Caller) })
}

// hangUp closes the socket, and then calls done, unless that is nil.
func (c *Conn) hangUp(done func()) {
	if !c.unguarded || !c.mayHoldDescriptors() {
		_ = c.raw.FD.Close()
		if done != nil {
			done()
		}
		return
	}
	c.unwatch()
	c.loop.closer.Close(c, func() {
		_ = c.raw.FD.Close()
		if done != nil {
			c.loop.Post(done)
		}
	})
}

// mayHoldDescriptors reports whether anything waits unread in the socket. Nothing more arrives after.
func (c *Conn) mayHoldDescriptors() bool {
	_ = c.raw.ShutdownRead()
	_, descriptors, err := c.raw.Peek(c.loop.in)
	return descriptors || err == nil || c.loop.closer.Busy(c)
}

// Discard has fds closed once the call that they came with is answered. It takes fds.
func (c *Conn) Discard(fds []*scmrights.FD) { c.garbage = append(c.garbage, fds...) }

// closeGarbage closes what was discarded. Nothing else happens to the connection meanwhile.
func (c *Conn) closeGarbage() {
	fds := c.garbage
	c.garbage = nil
	c.Run(func() func() error {
		scmrights.CloseAll(fds)
		return nil
	})
}

// finish ends all connections once the loop stops. Those whose request was granted hear of it first, since the next
// broker goes by that. It returns how many it left behind: what they run, or what they close, does not end.
func (l *Loop) finish() (left int) {
	l.stopping, l.paused = true, time.Time{}
	_ = l.watch(l.listener, unix.EPOLL_CTL_DEL, 0)
	l.runQueue()
	for _, c := range l.conns {
		c.closeWindow()
		c.advance() // to the end, unless something runs or does not fit into its buffer
	}
	l.serveFor(stopTime)
	for _, c := range l.conns {
		if c.running {
			go c.cutOff()
		} else {
			c.close()
		}
	}
	l.serveFor(stopTime)
	l.closer.Wait(closeTime)
	l.runQueue()
	return l.clients
}

// serveFor serves the connections that are left, as long as there are any, but no longer than limit.
func (l *Loop) serveFor(limit time.Duration) {
	for end := time.Now().Add(limit); len(l.conns) > 0 && time.Now().Before(end); {
		wait := int(time.Until(end)/time.Millisecond) + 1
		if p := l.patience(); p >= 0 {
			wait = min(wait, p)
		}
		if l.turn(wait) != nil {
			return
		}
	}
}

// cutOff closes the socket while a goroutine may be blocked in a system call on it. An eventfd takes its number, so
// that executing another program in this process does not close the connection, and with it what waits in it.
func (c *Conn) cutOff() {
	_ = c.raw.Control(func(fd uintptr) {
		_ = c.loop.queue.eventfd.Control(func(n uintptr) { _ = unix.Dup3(int(n), int(fd), unix.O_CLOEXEC) })
	})
	_ = c.raw.FD.Close()
}
