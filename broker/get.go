//go:build linux

package broker

import (
	"context"

	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// Socket is a socket that the broker has handed out. Its receiver must close FD.
type Socket struct {
	Name    string
	Network string // tcp, tcp4, tcp6, udp, udp4, udp6, unix, unixpacket or unixgram
	Address string // that was bound: for port 0, the real one
	FD      *scmrights.FD
}

// get calls Get. The caller must close the sockets.
func (x *exchange) get(ctx context.Context, more bool, p protocol.GetParameters) (grant int64, sockets []Socket, err error) {
	x.conn.Admit(max(len(p.Names), protocol.MaxNamesInCall))
	m, err := x.ask(ctx, protocol.AppendGetCall(make([]byte, 0, 128), p, more))
	if err != nil {
		return 0, nil, err
	}
	reply, fds, err := m.Handed(p.Names)
	if err != nil {
		return 0, nil, err
	}
	sockets = make([]Socket, len(fds))
	for i, g := range reply.Sockets {
		sockets[i] = Socket{Name: g.Name, Network: g.Network, Address: g.Address, FD: fds[i]}
	}
	return reply.Grant, sockets, nil
}

func closeSockets(sockets []Socket) {
	for _, s := range sockets {
		_ = s.FD.Close()
	}
}
