//go:build linux

package conn

import (
	"slices"
	"sync"
	"time"

	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// Window is the time in which a connection may receive one descriptor: from the call that asked for it to
// the end of the next one, but no longer than CallTimeout. Outside of it the kernel refuses them, if it can
// (SO_PASSRIGHTS, Linux 6.16).
type Window struct {
	loop  *Loop
	raw   scmrights.Nonblocking
	until time.Time // zero once that has come

	mu     sync.Mutex
	closed bool
}

// OpenWindow lets the next call carry a descriptor.
func (c *Conn) OpenWindow() *Window {
	c.window = &Window{loop: c.loop, raw: c.raw, until: time.Now().Add(c.loop.cfg.CallTimeout)}
	c.unguarded = true // what arrives in the window may be read after it
	c.loop.windows.Add(1)
	passRights(c.raw, 1)
	return c.window
}

// Close ends the window early. A descriptor that has arrived is taken. It may be called by any goroutine,
// more than once.
func (w *Window) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.closed = true
		w.loop.windows.Add(-1)
		passRights(w.raw, 0)
	}
}

// Windows returns how many connections may receive a descriptor now. It may be called by any goroutine.
func (l *Loop) Windows() int { return int(l.windows.Load()) }

func (c *Conn) closeWindow() {
	if c.window != nil {
		c.window.Close()
		c.window = nil
	}
}

// passRights lets the peer send descriptors, or not. Older kernels do not know the option, and there the
// peer always can.
func passRights(c scmrights.Nonblocking, on int) {
	_ = c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSRIGHTS, on) })
}

// readDescriptors reads with room for a descriptor. The kernel closes those for which there is no room
// before the system call returns, so it may block.
func (c *Conn) readDescriptors() {
	c.Run(func() func() error {
		b := make([]byte, readSize)
		n, fds, err := c.raw.RecvFDs(b, 1)
		if !c.Caller.Privileged {
			clearLinger(fds)
		}
		return func() error {
			if err != nil {
				return c.readError(err)
			}
			return c.received(slices.Clip(b[:n]), fds)
		}
	})
}

// clearLinger makes the close of fds, which a client without privilege sent, not wait for what is unsent
// in them. A socket that listens does not wait, and may be in use.
func clearLinger(fds []*scmrights.FD) {
	for _, f := range fds {
		_ = f.Control(func(fd uintptr) {
			if listens, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err == nil && listens == 0 {
				_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{})
			}
		})
	}
}
