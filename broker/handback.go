//go:build linux

package broker

import (
	"context"

	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// Attach hands a socket back that an earlier broker has handed out. It first asks whether
// the broker wants it: for some seconds after its start, a broker that finds the address in
// use does. Only then Attach calls find with network and address as the listener's spec has
// them, and closes the descriptor that find returns. It returns an error of find as it is.
//
// Errors: [ErrNameInUse] if the listener is bound already, [ErrUnknownName] if there is none
// of that name, [ErrBindFailed] if it is another socket, and [ErrDenied].
func (c *Client) Attach(ctx context.Context, name string, find func(network, address string) (*scmrights.FD, error)) error {
	return c.do(ctx, func(ctx context.Context, x *exchange) error {
		p := protocol.AttachParameters{Name: name}
		var reply protocol.AttachReply
		if err := x.call(ctx, protocol.MethodAttach, p, &reply); err != nil {
			return err
		}
		fd, err := find(reply.Network, reply.Address)
		if err != nil {
			return err
		}
		defer fd.Close()
		p.FileDescriptor = new(0)
		return x.call(ctx, protocol.MethodAttach, p, nil, fd)
	})
}

// handBack offers the link's sockets to a broker that has started with nothing. If it does
// not want them, there is nothing else to do.
func (l *link) handBack(ctx context.Context) {
	c := Client{Socket: l.path}
	defer c.Close()
	l.each(func(m member) {
		if name, open := m.dialed(); open {
			_ = c.Attach(ctx, name, func(string, string) (*scmrights.FD, error) { return m.dup() })
		}
	})
}
