//go:build linux

package broker

import (
	"context"
	"errors"

	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// ErrOverflow says that more happened than a watcher was fast enough to be told.
var ErrOverflow = errors.New("events were missed: the watcher is too slow")

// Watch calls each with what happens at the broker, from the event "watching" on,
// until ctx is done, each returns an error, or the broker goes; it returns why. It
// has a connection of its own, so other calls go on meanwhile. The Event is each's
// to keep. A watcher that falls 1024 events behind gets the event "overflow", and
// Watch returns [ErrOverflow].
//
// Errors: those of ctx and each, [ErrOverflow], [ErrDenied], [ErrLost].
func (c *Client) Watch(ctx context.Context, each func(protocol.Event) error) error {
	x, err := newExchange(ctx, c.Socket)
	if err != nil {
		return err
	}
	defer x.close()
	call, err := protocol.AppendCall(nil, protocol.Call{Method: protocol.MethodWatch, More: true}, nil)
	if err != nil {
		return err
	}
	m, err := x.ask(ctx, call)
	for {
		if err != nil {
			return err
		}
		if err := event(m, each); err != nil {
			return err
		}
		m, err = x.next(ctx)
	}
}

// event calls each with the event that m tells.
func event(m protocol.Message, each func(protocol.Event) error) error {
	raw, err := parametersOf(m)
	if err != nil {
		return err
	}
	scmrights.CloseAll(m.FDs) // there should be none
	var reply protocol.WatchReply
	if err := decode(raw, &reply); err != nil {
		return err
	}
	if err := each(reply.Event); err != nil {
		return err
	}
	if reply.Event.What == protocol.EventOverflow {
		return ErrOverflow
	}
	return nil
}
