//go:build linux

package broker

import (
	"context"

	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// Attach gives a broker back a socket that an earlier one has handed out. It asks
// whether that is wanted, which it is for some seconds after the start of a broker that
// finds the address in use; only then it calls find for the socket, with network and
// address as the listener's spec has them, and closes what that returns. On an error
// of find, Attach returns it.
//
// Errors: [ErrNameInUse] where the listener is bound by now, [ErrUnknownName] where
// there is none of that name, [ErrBindFailed] where the socket is not the one, and
// [ErrDenied].
func (c *Client) Attach(ctx context.Context, name string, find func(network, address string) (*scmrights.FD, error)) error {
	return c.do(ctx, func(ctx context.Context, x *exchange) error {
		p := protocol.AttachParameters{Name: name}
		raw, err := x.bring(ctx, protocol.MethodAttach, p, nil)
		if err != nil {
			return err
		}
		var reply protocol.AttachReply
		if err := decode(raw, &reply); err != nil {
			return err
		}
		fd, err := find(reply.Network, reply.Address)
		if err != nil {
			return err
		}
		defer fd.Close()
		p.FileDescriptor = new(0)
		_, err = x.bring(ctx, protocol.MethodAttach, p, fd)
		return err
	})
}
