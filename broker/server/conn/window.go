package conn

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/scmrights"
)

// OpenWindow lets the next call carry one descriptor. After CallTimeout, and at any other time, the kernel refuses
// descriptors, if it can (SO_PASSRIGHTS, Linux 6.16).
func (c *Conn) OpenWindow() {
	c.window, c.windowEnd = true, time.Now().Add(c.loop.cfg.CallTimeout)
	c.unguarded = true // what arrives in the window may be read after it
	c.passRights(1)
}

func (c *Conn) closeWindow() {
	if c.window {
		c.window, c.windowEnd = false, time.Time{}
		c.passRights(0)
	}
}

// passRights lets the peer send descriptors, or not. Older kernels do not know the option, and there the peer always
// can.
func (c *Conn) passRights(on int) {
	_ = c.raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSRIGHTS, on) })
}

// readDescriptors reads with room for a descriptor. The kernel closes those for which there is no room before the
// system call returns, so it may block.
func (c *Conn) readDescriptors() {
	c.Run(func() func() error {
		b := make([]byte, readSize)
		n, fds, err := c.raw.Recv(b, 1)
		if !c.Caller.Privileged {
			clearLinger(fds)
		}
		return func() error {
			if err != nil {
				return c.readError(err)
			}
			return c.received(b[:n], fds)
		}
	})
}

// clearLinger makes the close of fds, which a client without privilege sent, not wait for what is unsent in them. A
// socket that listens does not wait, and may be in use.
func clearLinger(fds []*scmrights.FD) {
	for _, f := range fds {
		_ = f.Control(func(fd uintptr) {
			if listens, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err == nil && listens == 0 {
				_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{})
			}
		})
	}
}
