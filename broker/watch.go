//go:build linux

package broker

import (
	"context"
	"errors"

	"github.com/fdbroker/fdbroker/protocol"
)

// ErrOverflow says that a watcher was too slow to be sent all events.
var ErrOverflow = errors.New("events were missed: the watcher is too slow")

// Watch calls each with what happens at the broker, from the event "watching" on, until ctx is done, each returns an
// error, or the broker goes; it returns why. It has a connection of its own, so other calls go on meanwhile. each may
// keep the Event. A watcher that falls 1024 events behind gets the event "overflow", and Watch returns [ErrOverflow].
//
// Errors: those of ctx and each, [ErrOverflow], [ErrDenied], [ErrLost].
func (c *Client) Watch(ctx context.Context, each func(protocol.Event) error) error {
	return stream(ctx, c, protocol.MethodWatch, nil, func(reply *protocol.WatchReply) (bool, error) {
		err := each(reply.Event)
		if err == nil && reply.Event.What == protocol.EventOverflow {
			err = ErrOverflow
		}
		return true, err
	})
}

// stream makes a call with more than one reply, over a connection of its own. It calls each
// with the replies until that returns false or an error.
func stream[Reply any](ctx context.Context, c *Client, method string, parameters any, each func(*Reply) (more bool, err error)) error {
	x, err := newExchange(ctx, c.Socket)
	if err != nil {
		return err
	}
	defer x.close()
	call, err := protocol.AppendCall(nil, protocol.Call{Method: method, More: true}, parameters)
	if err != nil {
		return err
	}
	for more := true; more; call = nil {
		reply := new(Reply)
		if err := x.receive(ctx, call, reply); err != nil {
			return err
		}
		if more, err = each(reply); err != nil {
			return err
		}
	}
	return nil
}
