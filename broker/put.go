//go:build linux

package broker

import (
	"context"

	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// PutOptions says what a descriptor that Put brings is to become. The zero
// PutOptions makes a listener of it for root and the broker's user.
type PutOptions struct {
	// Options are as they stand in a spec behind the address, such as
	// "allow=group:www,max=2".
	Options string
	// Any takes any descriptor: a pipe, a memfd, a connected socket. Without it, it
	// must be a socket that is bound and, where it takes connections, listens.
	Any bool
	// PID is the id of a process that accepts on the socket, and is to be known as its
	// holder; 0: none.
	PID int
	// DrainSignal is the signal that asks that process to leave, such as "TERM", without
	// "SIG"; empty: none does.
	DrainSignal string
}

// Put makes fd, which it borrows, the broker's listener of that name, and returns
// that as it is now. Where the very same socket has the name already, nothing
// changes. The caller may go on using fd.
//
// Errors: [ErrBindFailed], [ErrNameInUse], [ErrDenied], [ErrLimitReached].
func (c *Client) Put(ctx context.Context, o PutOptions, name string, fd *scmrights.FD) (l protocol.Listener, err error) {
	return l, c.do(ctx, func(ctx context.Context, x *exchange) error {
		p := protocol.PutParameters{Name: name, Options: o.Options, Any: o.Any, PID: o.PID, DrainSignal: o.DrainSignal}
		// Nobody can send descriptors to the broker before it has said yes.
		if _, err := x.bring(ctx, protocol.MethodPut, p, nil); err != nil {
			return err
		}
		p.FileDescriptor = new(0)
		raw, err := x.bring(ctx, protocol.MethodPut, p, fd)
		if err != nil {
			return err
		}
		var reply protocol.PutReply
		if err := decode(raw, &reply); err != nil {
			return err
		}
		if reply.Listener == nil {
			return malformedf("reply: no listener")
		}
		l = *reply.Listener
		return nil
	})
}

// bring makes a call with a descriptor, which it borrows; nil is none.
func (x *exchange) bring(ctx context.Context, method string, parameters any, fd *scmrights.FD) ([]byte, error) {
	b, err := protocol.AppendCall(make([]byte, 0, 256), protocol.Call{Method: method}, parameters)
	if err != nil {
		return nil, err
	}
	var fds []*scmrights.FD
	if fd != nil {
		fds = []*scmrights.FD{fd}
	}
	m, err := x.within(ctx, func() (protocol.Message, error) { return x.roundTrip(b, fds...) })
	if err != nil {
		return nil, err
	}
	scmrights.CloseAll(m.FDs)
	if len(m.FDs) > 0 {
		return nil, malformedf("reply: %d descriptors that nobody asked for", len(m.FDs))
	}
	return parametersOf(m)
}
