package conn

import (
	"errors"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// Send sends a message, and descriptors, which it borrows. What does not fit into the socket's buffer is
// sent later; no call is answered before that. After an error the connection has to end, unless the
// error is [os.ErrClosed] or [unix.ETOOMANYREFS]: then nothing was sent.
func (c *Conn) Send(b []byte, fds ...*scmrights.FD) error {
	if len(c.out) > 0 {
		c.out = append(c.out, b...) // an event: it has no descriptors
		return nil
	}
	n, err := c.raw.Send(b, fds...)
	switch {
	case err == nil:
	case errors.Is(err, scmrights.ErrWouldBlock):
		c.out = append(c.out, b[n:]...)
		if n == 0 {
			c.outFDs = slices.Clone(fds)
		}
	case errors.Is(err, os.ErrClosed) || errors.Is(err, unix.ETOOMANYREFS):
		return err
	default:
		return &sendError{err}
	}
	c.fdsUnread = c.fdsUnread || len(fds) > 0
	c.replyUnread = !c.deferred
	return nil
}

// Waits reports whether descriptors wait to be sent, because there was no room for the last reply.
func (c *Conn) Waits() bool { return c.outFDs != nil }

// IfUnsent makes the loop call f if the connection ends before descriptors that wait are sent.
func (c *Conn) IfUnsent(f func()) { c.unsent = f }

// SendError sends an error reply.
func (c *Conn) SendError(err error) error {
	b, err := protocol.AppendError(nil, err)
	if err != nil {
		return err
	}
	return c.Send(b)
}

// sendError sends an error if there is room for it: the connection ends in any case.
func (c *Conn) sendError(err error) {
	if b, err := protocol.AppendError(nil, err); err == nil && len(c.out) == 0 {
		_, _ = c.raw.Send(b)
	}
}

// flush sends what did not fit.
func (c *Conn) flush() (wait uint32, err error) {
	n, err := c.raw.Send(c.out, c.outFDs...)
	if c.out = c.out[n:]; n > 0 {
		c.outFDs, c.unsent = nil, nil
	}
	switch {
	case err == nil:
		c.out = nil
		c.clearDeadline()
		return 0, nil
	case !errors.Is(err, scmrights.ErrWouldBlock):
		return 0, &sendError{err}
	}
	patient := c.parked != nil && c.parked.Patient
	switch {
	case patient && c.loop.stopping:
		return 0, errStopping
	case !patient && (n > 0 || c.deadlineKind != deadlineFlush):
		c.setDeadline(deadlineFlush, time.Now().Add(c.loop.cfg.CallTimeout))
	}
	if c.parked != nil && !c.parked.EndsOnInput {
		return unix.EPOLLOUT | unix.EPOLLRDHUP, nil
	}
	return unix.EPOLLOUT, nil // a peer that has closed one direction would be reported again and again
}

// descriptorsRead reports whether the peer has read the descriptors that it was sent: the kernel counts
// those under way for the sender (docs/kernel.md, SCM_RIGHTS), so there is one such reply at a time.
func (c *Conn) descriptorsRead() bool {
	unread, err := c.raw.Unread()
	c.fdsUnread = err == nil && unread
	return !c.fdsUnread
}

// awaitUnread waits until the peer has read the descriptors that stand before the next call: each of its
// reads is an edge at which the socket is writable. A call that ends the connection does not wait.
func (c *Conn) awaitUnread(call []byte) (wait uint32, err error) {
	if c.loop.stopping {
		return 0, errStopping
	}
	if c.deadlineKind != deadlineUnread {
		if _, err := protocol.DecodeCall(call); err != nil {
			return 0, err
		}
		c.setDeadline(deadlineUnread, time.Now().Add(c.loop.cfg.CallTimeout))
	}
	return unix.EPOLLOUT | unix.EPOLLET | unix.EPOLLRDHUP, nil
}

// expire does what the deadlines that have passed ask for.
func (l *Loop) expire() {
	for now := time.Now(); len(l.deadlines) > 0 && !now.Before(l.deadlines[0].deadline); {
		c := l.deadlines[0]
		kind := c.deadlineKind
		c.clearDeadline()
		switch kind {
		case deadlineStep:
			c.advance()
		case deadlineWindow:
			c.windowEnd = time.Time{} // a descriptor that has arrived is taken
			c.passRights(0)
		case deadlineFlush:
			c.end(&sendError{os.ErrDeadlineExceeded})
		case deadlineCall:
			if c.OneCall {
				c.end(l.cfg.Descriptors.Exhausted())
				continue
			}
			c.end(l.tooSlow("seconds to complete a call in"))
		case deadlineUnread:
			c.end(l.tooSlow("seconds to read descriptors while another call waits after them"))
		}
	}
}

// tooSlow says that a client has taken more than CallTimeout, of what is in limit.
func (l *Loop) tooSlow(limit string) error {
	return &protocol.LimitError{Limit: limit, Max: int(l.cfg.CallTimeout.Seconds())}
}
