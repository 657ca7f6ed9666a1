//go:build linux

package protocol

import (
	"bytes"
	"errors"
	"fmt"
	"syscall"

	"github.com/fdbroker/fdbroker/scmrights"
)

const smallBuffer = 512 // of an idle connection; nearly every call fits

// Message is one message, without its NUL, and the descriptors that came with it.
type Message struct {
	Bytes []byte          // valid until the next Fill
	FDs   []*scmrights.FD // the receiver must close them
}

// Transport carries bytes and descriptors: a *[scmrights.Conn] or a *[scmrights.Stream].
type Transport interface {
	Send(b []byte, fds ...*scmrights.FD) error
	Recv(b []byte, limit int) (n int, fds []*scmrights.FD, err error)
}

// Conn frames messages over a Unix stream socket that it does not own. One goroutine may receive while another sends.
type Conn struct {
	t        Transport
	max      int // bytes of a message
	maxFDs   int // descriptors of a message
	buf      []byte
	start    int // where the first message begins that Next has not returned
	scanned  int // no NUL is between start and here
	attached []attachment
}

// attachment is the descriptors of the message that begins at off.
type attachment struct {
	off int
	fds []*scmrights.FD
}

// NewConn returns a Conn on t, which it borrows. A message longer than limit bytes, or with
// more than limitFDs descriptors, is an error.
func NewConn(t Transport, limit, limitFDs int) *Conn {
	return &Conn{t: t, max: limit, maxFDs: limitFDs}
}

// Admit sets how many descriptors a message may have, from the next Fill on.
func (c *Conn) Admit(limit int) { c.maxFDs = limit }

// Send sends a message that ends with NUL, and descriptors, which it borrows.
func (c *Conn) Send(m []byte, fds ...*scmrights.FD) error { return c.t.Send(m, fds...) }

// Next returns the next whole message that Fill has received.
func (c *Conn) Next() (m Message, ok bool) {
	i := bytes.IndexByte(c.buf[c.scanned:], 0)
	if i < 0 {
		c.scanned = len(c.buf)
		return m, false
	}
	end := c.scanned + i
	m.Bytes = c.buf[c.start:end]
	for len(c.attached) > 0 && c.attached[0].off <= end {
		if m.FDs == nil {
			m.FDs = c.attached[0].fds // usually the only ones
		} else {
			m.FDs = append(m.FDs, c.attached[0].fds...)
		}
		c.attached = c.attached[1:]
	}
	c.start, c.scanned = end+1, end+1
	return m, true
}

// Receive waits for the next whole message. Its errors are those of Fill, except that a
// message over the limits of c is malformed.
func (c *Conn) Receive() (Message, error) {
	for {
		if m, ok := c.Next(); ok {
			return m, nil
		}
		err := c.Fill()
		if limit, ok := errors.AsType[*LimitError](err); ok { // the limit is ours, not the peer's
			err = &MalformedError{Reason: fmt.Sprintf("more than %d %s", limit.Max, limit.Limit)}
		}
		if err != nil {
			return Message{}, err
		}
	}
}

// Fill waits for more bytes. At the end of the stream the error is [io.EOF], even in the middle of a message. A message
// that is too long gives a *[LimitError], too many descriptors a *[MalformedError], and more than this process may open
// [syscall.EMFILE]; the connection is then of no more use.
func (c *Conn) Fill() error {
	c.compact()
	if len(c.buf)-c.start >= c.max {
		return &LimitError{Limit: "bytes in a message", Max: c.max}
	}
	n, fds, err := c.t.Recv(c.buf[len(c.buf):cap(c.buf)], c.maxFDs)
	switch {
	case errors.Is(err, syscall.EMFILE):
		return fmt.Errorf("a message came with more descriptors than this process may open; raise the limit (ulimit -n, LimitNOFILE=): %w", syscall.EMFILE)
	case errors.Is(err, scmrights.ErrTooMany):
		return &MalformedError{Reason: fmt.Sprintf("more descriptors than the %d expected", c.maxFDs)}
	case err != nil:
		return err
	}
	c.buf = c.buf[:len(c.buf)+n]
	if len(fds) > 0 {
		c.attach(fds)
	}
	return nil
}

// compact moves the rest to the front of the buffer, and makes room behind it.
func (c *Conn) compact() {
	rest := len(c.buf) - c.start
	switch {
	case rest == 0 && cap(c.buf) != min(smallBuffer, c.max):
		c.buf = make([]byte, 0, min(smallBuffer, c.max))
	case rest == cap(c.buf):
		bigger := make([]byte, rest, min(2*rest, c.max))
		copy(bigger, c.buf)
		c.buf = bigger
	default:
		copy(c.buf[:rest], c.buf[c.start:])
		c.buf = c.buf[:rest]
	}
	for i := range c.attached {
		c.attached[i].off -= c.start
	}
	c.scanned -= c.start
	c.start = 0
}

// attach notes which message fds belong to. The bytes received end inside the send that
// carried fds, so it is the last message that has a byte here.
func (c *Conn) attach(fds []*scmrights.FD) {
	off := c.start
	if i := bytes.LastIndexByte(c.buf[c.start:len(c.buf)-1], 0); i >= 0 {
		off = c.start + i + 1
	}
	c.attached = append(c.attached, attachment{off, fds})
}

// Discard closes the descriptors of messages that Next has not returned. The owner of the connection closes that.
func (c *Conn) Discard() {
	for _, a := range c.attached {
		scmrights.CloseAll(a.fds)
	}
	c.attached = nil
}
