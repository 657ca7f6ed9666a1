package conn

import (
	"errors"
	"io"
	"net"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/protocol"
)

// errStopping ends a connection because the broker is stopping.
var errStopping = registry.ErrStopping

// errUninvited ends a connection whose peer has sent descriptors that were not asked for.
var errUninvited = &protocol.MalformedError{Reason: "descriptors that nobody asked for"}

// sendError is a reply that could not be sent, or not all of it.
// Nothing that follows it would be understood.
type sendError struct{ err error }

func (e *sendError) Error() string { return "reply: " + e.err.Error() }
func (e *sendError) Unwrap() error { return e.err }

// ErrUnread is the blame for a reply that the peer has left unread. The kernel says so when the broker next reads or
// writes.
var ErrUnread = errors.New("client disconnected before reading the reply")

// isGone reports whether err only says that the peer has closed the connection.
func isGone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}

// blame returns what the peer has done wrong, if err is why the connection ends; nil: nothing. Closing it
// between calls is not wrong, nor at any time while the broker lets it wait.
func (c *Conn) blame(err error) error {
	_, unsent := errors.AsType[*sendError](err)
	switch {
	case unsent && !isGone(err):
		return err
	case unsent && c.deferred:
		return nil
	case unsent:
		return ErrUnread
	case isGone(err) && len(c.in) > 0:
		return &protocol.MalformedError{Reason: "the message is cut short"}
	case errors.Is(err, unix.ECONNRESET) && c.replyUnread:
		return ErrUnread
	case isGone(err):
		return nil
	}
	return err
}

// end ends the connection because of err. What the peer has done wrong is logged, and told to it if there is a way.
func (c *Conn) end(err error) {
	if errors.Is(err, errStopping) || c.loop.stopping {
		c.close()
		return
	}
	if err = c.blame(err); err != nil {
		c.loop.cfg.Handler.Refused(c, err)
		if _, unsent := errors.AsType[*sendError](err); !unsent && !errors.Is(err, ErrUnread) {
			c.sendError(err)
		}
	}
	c.close()
}

// Ends reports whether err ends a connection, instead of being the answer to a call: the broker is stopping, or a
// reply could not be sent.
func Ends(err error) bool {
	_, unsent := errors.AsType[*sendError](err)
	return unsent || errors.Is(err, errStopping)
}
