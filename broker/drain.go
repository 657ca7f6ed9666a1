//go:build linux

package broker

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/fdbroker/fdbroker/protocol"
)

// GenerationEnv is the environment variable that says which deploy a process belongs to; see
// [Client.Deploy]. Dialer and Client.Get tell the broker.
const GenerationEnv = protocol.GenerationEnv

// ErrDrained is the error of Accept and ReadFrom once the broker has asked this process to leave: it is time to finish
// accepted connections, and to exit. Such an error is [net.ErrClosed] as well.
var ErrDrained = errors.New("asked to leave by the broker")

// ErrUnasked says that the broker could not signal all processes that Drain should have asked. It is a *[UnaskedError].
var ErrUnasked = errors.New("not all were asked to leave")

// UnaskedError says how many processes Drain could not ask to leave.
type UnaskedError struct{ Count int }

// Is reports whether target is [ErrUnasked].
func (e *UnaskedError) Is(target error) bool { return target == ErrUnasked }

func (e *UnaskedError) Error() string {
	return fmt.Sprintf("processes that the broker could not signal: %d (its log says which; the broker must run as their user, or have CAP_KILL)", e.Count)
}

// drainedError is the error of a socket that was closed because of a drain.
type drainedError struct{ op string }

func (e *drainedError) Error() string {
	return fmt.Sprintf("%s: %v", e.op, ErrDrained)
}

func (e *drainedError) Is(target error) bool { return target == ErrDrained || target == net.ErrClosed }

// DrainOptions limits which holders Drain asks. The zero DrainOptions asks all.
type DrainOptions struct {
	// Before limits it to grants with a lower generation; 0: no limit.
	Before int64
	// Unserved, if it is not nil, is called with the listeners that nobody else holds or waits for. New connections to
	// these wait in the queue until somebody does.
	Unserved func(names []string)
	// Progress, if it is not nil, makes Drain wait until all have left. It is called with how
	// many have not: at first, and whenever one has left.
	Progress func(left int)
}

// Drain asks the holders of the named listeners to stop accepting, to finish their work, and to leave. It returns how
// many were asked, now or earlier, and have not left. Queued connections stay with the listeners, for later holders.
//
// A [Listener] returns [ErrDrained] from Accept; a process that became a worker by [Client.Get] gets the signal that it
// has named. Users other than root and the broker's own reach their own grants only.
//
// After [ErrLost], Drain may be called again, with a Before that spares new holders. A
// holder that was asked is not asked again, but counts.
//
// Errors: [ErrUnknownName], [ErrDenied], and [ErrUnasked], with which drained is valid too.
func (c *Client) Drain(ctx context.Context, o DrainOptions, names ...string) (drained int, err error) {
	p := protocol.DrainParameters{Names: names}
	if o.Before != 0 {
		p.Before = &o.Before
	}
	var reply protocol.DrainReply
	tell := func() {
		if len(reply.Unserved) > 0 && o.Unserved != nil {
			o.Unserved(reply.Unserved)
		}
	}
	if o.Progress == nil {
		err = c.call(ctx, protocol.MethodDrain, p, &reply)
		tell()
	} else {
		err = stream(ctx, c, protocol.MethodDrain, p, func(r *protocol.DrainReply) (more bool, err error) {
			if r.Left == nil {
				return false, malformedf("reply: not how many are left")
			}
			reply = *r
			tell()
			o.Progress(*r.Left)
			return *r.Left > 0, nil
		})
	}
	if err == nil && reply.Failed > 0 {
		err = &UnaskedError{reply.Failed}
	}
	return reply.Drained, err
}

// DeployOptions describes a deploy and the functions to call.
type DeployOptions struct {
	// Generation is 0, or that of a deploy that goes on after the broker was lost.
	Generation int64
	// Joined is called with the deploy's generation. Its workers must have it as [GenerationEnv].
	Joined func(generation int64)
	// Replaced, if it is not nil, is called when a newer deploy has replaced this one. The
	// broker asks the workers to leave once it has returned, or after a tenth of a second.
	Replaced func()
	// Roll, if it is not nil, is called when the broker asks the deploy to replace each worker by a new one, because
	// the workers have sockets that its listeners have no more. It must not block for long. Without it, the broker asks
	// the workers to leave those.
	Roll func()
}

// Deploy tells the broker that this process starts workers of the named listeners. It returns nil once a newer deploy
// has replaced this one: then the broker asks its workers to leave, and it must not start others. Without names, the
// listeners are those that its workers hold: processes of the same user, or root's, that have its generation.
//
// Errors: [ErrReplaced] if that has happened already, [ErrDenied], [ErrLost].
func (c *Client) Deploy(ctx context.Context, o DeployOptions, names ...string) error {
	p := protocol.DeployParameters{Names: append([]string{}, names...), Generation: o.Generation, Rolls: o.Roll != nil}
	return stream(ctx, c, protocol.MethodDeploy, p, func(reply *protocol.DeployReply) (more bool, err error) {
		switch reply.Event {
		case "":
			o.Joined(reply.Generation)
		case protocol.EventRoll:
			if o.Roll != nil {
				o.Roll()
			}
		case protocol.EventDrain:
			if o.Replaced != nil {
				o.Replaced()
			}
			return false, nil // closes the connection, which tells the broker
		} // a later broker may send others
		return true, nil
	})
}

// Replace asks all older holders of the socket to leave; it is for a new version that is ready. It returns how many
// were asked, now or earlier, and have not left. Processes of the same deploy, or of a newer one, stay.
//
// Errors: [ErrNoBroker], [ErrLost], [ErrUnknownName], [ErrDenied].
func (h *handle) Replace(ctx context.Context) (drained int, err error) {
	c := Client{Socket: h.link.path}
	defer c.Close()
	return c.Drain(ctx, DrainOptions{Before: h.link.generation()}, h.name)
}
