//go:build linux

package broker

import (
	"context"

	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// PutOptions says what becomes of a descriptor that Put brings. The zero PutOptions makes it
// a listener for root and the broker's user.
type PutOptions struct {
	// Options are those that follow the address in a spec, such as "allow=group:www,max=2".
	Options string
	// Any accepts any descriptor: a pipe, a memfd, a connected socket. Without it, the
	// descriptor must be a socket that is bound and, if it takes connections, listens.
	Any bool
	// PID is a process that accepts on the socket and becomes its holder; 0: none.
	PID int
	// DrainSignal is the signal that asks that process to leave, without "SIG", such as
	// "TERM"; empty: none.
	DrainSignal string
}

// Put makes fd, which it borrows, the broker's listener of that name, and returns that as it
// is now. If the same socket has the name already, nothing changes. The caller may go on
// using fd.
//
// Errors: [ErrBindFailed], [ErrNameInUse], [ErrDenied], [ErrLimitReached].
func (c *Client) Put(ctx context.Context, o PutOptions, name string, fd *scmrights.FD) (l protocol.Listener, err error) {
	return l, c.do(ctx, func(ctx context.Context, x *exchange) error {
		p := protocol.PutParameters{Name: name, Options: o.Options, Any: o.Any, PID: o.PID, DrainSignal: o.DrainSignal}
		// The broker accepts a descriptor only after it has said that it wants one.
		if err := x.call(ctx, protocol.MethodPut, p, nil); err != nil {
			return err
		}
		p.FileDescriptor = new(0)
		var reply protocol.PutReply
		if err := x.call(ctx, protocol.MethodPut, p, &reply, fd); err != nil {
			return err
		}
		if reply.Listener == nil {
			return malformedf("reply: no listener")
		}
		l = *reply.Listener
		return nil
	})
}
