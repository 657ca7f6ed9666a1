//go:build linux

package broker

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// GenerationEnv is the environment variable that says which deploy a process belongs
// to; see [Client.Deploy]. Dialer and Client.Get tell the broker.
const GenerationEnv = protocol.GenerationEnv

// ErrDrained is what Accept and ReadFrom return once the broker has asked this process
// to leave: it is time to finish what was accepted, and to end. Such an error is
// [net.ErrClosed] as well.
var ErrDrained = errors.New("asked to leave by the broker")

// ErrUnasked says that Drain could not ask all: processes that the broker may not send
// their signal. It is a *[UnaskedError].
var ErrUnasked = errors.New("not all were asked to leave")

// UnaskedError says how many processes Drain could not ask to leave.
type UnaskedError struct{ Count int }

// Is reports whether target is [ErrUnasked].
func (e *UnaskedError) Is(target error) bool { return target == ErrUnasked }

func (e *UnaskedError) Error() string {
	return fmt.Sprintf("processes that the broker could not signal: %d (its log says which; it takes a broker of their user, or one with CAP_KILL)", e.Count)
}

// drainedError is the error of a socket that was closed because of a drain.
type drainedError struct{ op string }

func (e *drainedError) Error() string {
	return fmt.Sprintf("%s: %v", e.op, ErrDrained)
}

func (e *drainedError) Is(target error) bool { return target == ErrDrained || target == net.ErrClosed }

// DrainOptions says whom Drain asks to leave. The zero DrainOptions are all.
type DrainOptions struct {
	// Before limits it to grants whose generation is less; 0: no limit.
	Before int64
	// Progress, where it is not nil, makes Drain wait until all have left, and is
	// called with how many have not: at first, and whenever one has left.
	Progress func(left int)
}

// Drain asks the holders of the named listeners to stop accepting, to finish what
// they have, and to leave, and returns how many have been asked, now or earlier, and
// had not left. What is queued stays with the listeners, for those who come next.
//
// A [Listener] returns [ErrDrained] from Accept; a process that became a worker by
// [Client.Get] gets the signal it has named. Users other than root and the broker's
// own ask grants of their own only.
//
// After [ErrLost] it may be called again, with a Before that spares who has come since:
// who was asked is not asked again, but counts.
//
// Errors: [ErrUnknownName], [ErrDenied], and [ErrUnasked], with which drained is what it
// is without.
func (c *Client) Drain(ctx context.Context, o DrainOptions, names ...string) (drained int, err error) {
	p := protocol.DrainParameters{Names: names}
	if o.Before != 0 {
		p.Before = &o.Before
	}
	var reply protocol.DrainReply
	if o.Progress == nil {
		err = c.call(ctx, protocol.MethodDrain, p, &reply)
	} else {
		err = c.seeOff(ctx, p, &reply, o.Progress)
	}
	if err == nil && reply.Failed > 0 {
		err = &UnaskedError{reply.Failed}
	}
	return reply.Drained, err
}

// seeOff makes the call until all have left, and tells progress how many have not.
func (c *Client) seeOff(ctx context.Context, p protocol.DrainParameters, reply *protocol.DrainReply, progress func(int)) error {
	return c.stream(ctx, protocol.MethodDrain, p, func(m protocol.Message) (bool, error) {
		raw, err := parametersOf(m)
		if err != nil {
			return false, err
		}
		*reply = protocol.DrainReply{}
		if err := decode(raw, reply); err != nil {
			return false, err
		}
		if reply.Left == nil {
			return false, malformedf("reply: not how many are left")
		}
		progress(*reply.Left)
		return *reply.Left > 0, nil
	})
}

// DeployOptions say what a deploy is, and who is told of it.
type DeployOptions struct {
	// Generation is 0, or that of a deploy which goes on after the broker was lost.
	Generation int64
	// Joined is called with the deploy's generation, which its workers have to be told
	// as [GenerationEnv].
	Joined func(generation int64)
	// Replaced, where it is not nil, is called when a newer deploy has replaced this
	// one. The workers are not asked to leave until it has returned, but for a tenth
	// of a second at most.
	Replaced func()
}

// Deploy makes the broker know this process as one that starts workers of the named
// listeners, and returns nil once a newer deploy has replaced it: then its
// workers are asked to leave, and it must not start others. Without names, only what its
// workers hold counts: processes that say its generation and descend from this one.
//
// Errors: [ErrReplaced] where that has happened already, [ErrDenied], [ErrLost].
func (c *Client) Deploy(ctx context.Context, o DeployOptions, names ...string) error {
	p := protocol.DeployParameters{Names: append([]string{}, names...), Generation: o.Generation}
	return c.stream(ctx, protocol.MethodDeploy, p, func(m protocol.Message) (bool, error) {
		raw, err := parametersOf(m)
		if err != nil {
			return false, err
		}
		var reply protocol.DeployReply
		if err := decode(raw, &reply); err != nil {
			return false, err
		}
		if reply.Event == protocol.EventDrain {
			if o.Replaced != nil {
				o.Replaced()
			}
			return false, nil // closes the connection, which tells the broker
		}
		o.Joined(reply.Generation)
		return true, nil
	})
}

// stream makes a call with more than one reply over a connection of its own, and calls
// each with the replies until it returns false.
func (c *Client) stream(ctx context.Context, method string, parameters any, each func(protocol.Message) (bool, error)) error {
	x, err := newExchange(ctx, c.Socket)
	if err != nil {
		return err
	}
	defer x.close()
	call, err := protocol.AppendCall(nil, protocol.Call{Method: method, More: true}, parameters)
	if err != nil {
		return err
	}
	m, err := x.ask(ctx, call)
	for more := true; more; {
		if err != nil {
			return err
		}
		scmrights.CloseAll(m.FDs) // there should be none
		m.FDs = nil
		if more, err = each(m); more && err == nil {
			m, err = x.next(ctx)
		}
	}
	return err
}

// Replace asks all who held the listener before this process to leave: it is for a
// new version that is ready. It returns how many have been asked, now or earlier,
// and had not left. Whoever belongs to the same deploy, or to a newer one, stays.
//
// Errors: [ErrNoBroker], [ErrLost], [ErrUnknownName], [ErrDenied].
func (l *Listener) Replace(ctx context.Context) (drained int, err error) {
	return l.link.replace(ctx, l.name)
}

// Replace is like [Listener.Replace].
func (c *PacketConn) Replace(ctx context.Context) (drained int, err error) {
	return c.link.replace(ctx, c.name)
}

func (l *link) replace(ctx context.Context, name string) (int, error) {
	c := Client{Socket: l.path}
	defer c.Close()
	return c.Drain(ctx, DrainOptions{Before: l.generation()}, name)
}
