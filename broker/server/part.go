//go:build linux

package server

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/fdbroker/fdbroker/protocol"
	"golang.org/x/sys/unix"
)

// sendError is a reply that could not be sent, or not all of it, or that the peer has
// left unread. Nothing that follows it would be understood.
type sendError struct{ err error }

func (e *sendError) Error() string { return "reply: " + e.err.Error() }
func (e *sendError) Unwrap() error { return e.err }

// errUnread is a reply that the peer has left unread. The kernel says so to who reads or
// writes next.
var errUnread = &sendError{fmt.Errorf("the client has gone before it had read it: %w", unix.ECONNRESET)}

// isGone reports whether err only says that the peer has closed the connection.
func isGone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}

// sent notes that something was sent to the client.
func (c *client) sent() { c.owing = !c.waited }

// tooSlow says that a client has taken more than CallTimeout, of what is in limit.
func (s *Server) tooSlow(limit string) error {
	return &protocol.LimitError{Limit: limit, Max: int(s.cfg.CallTimeout.Seconds())}
}

// untaken returns what the client has done wrong, where err is what sending it a reply
// gave.
func (c *client) untaken(err error) error {
	switch {
	case !isGone(err):
		return err
	case c.waited:
		return nil
	}
	return errUnread
}

// part ends the connection, for err. What the peer has done wrong is logged, and told
// to it where there is a way.
func (s *session) part(err error) {
	if errors.Is(err, errStopping) || s.ctx.Err() != nil {
		return
	}
	if err = s.wrong(err); err == nil {
		return
	}
	s.refuse("", err)
	if _, broken := errors.AsType[*sendError](err); broken {
		return
	}
	s.unread = false                       // without descriptors it need not wait for those before it
	_ = s.replyError(protocol.Call{}, err) // the connection ends whether it arrives or not
}

// wrong returns what the peer has done wrong, where err is why the connection ends. To
// close it between calls is not wrong, nor at any time while the broker lets it wait.
func (s *session) wrong(err error) error {
	_, broken := errors.AsType[*sendError](err)
	switch {
	case broken:
		return s.untaken(err)
	case isGone(err) && s.conn.Partial():
		return &protocol.MalformedError{Reason: "the message ends in the middle"}
	case errors.Is(err, unix.ECONNRESET) && s.owing:
		return errUnread
	case isGone(err):
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return s.server.tooSlow("seconds to complete a call in")
	}
	return err
}
