//go:build linux

package broker

import (
	"context"

	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// Socket is a socket that the broker has handed out. Who got it must close FD.
type Socket struct {
	Name    string
	Network string // tcp, tcp4, tcp6, udp, udp4, udp6, unix, unixpacket or unixgram
	Address string // what was really bound
	FD      *scmrights.FD
}

// get calls Get. The caller must close the sockets.
func (x *exchange) get(ctx context.Context, more bool, p protocol.GetParameters) (grant int64, sockets []Socket, err error) {
	m, err := x.ask(ctx, protocol.AppendGetCall(make([]byte, 0, 128), p, more))
	if err != nil {
		return 0, nil, err
	}
	defer func() {
		if err != nil {
			scmrights.CloseAll(m.FDs)
		}
	}()
	reply, _, ok := protocol.DecodeGetReply(m.Bytes)
	if !ok {
		if reply, err = decodeGetReply(m); err != nil {
			return 0, nil, err
		}
	}
	sockets, err = match(p.Names, reply.Sockets, m.FDs)
	return reply.Grant, sockets, err
}

// decodeGetReply decodes the replies that protocol.DecodeGetReply leaves alone.
func decodeGetReply(m protocol.Message) (reply protocol.GetReply, err error) {
	raw, err := parametersOf(m)
	if err != nil {
		return reply, err
	}
	return reply, decode(raw, &reply)
}

// match pairs the sockets of a reply with the descriptors that came with it: all
// that were asked for, in that order, and none besides.
func match(names []string, got []protocol.Socket, fds []*scmrights.FD) ([]Socket, error) {
	if len(got) != len(names) || len(fds) != len(names) {
		return nil, malformedf("reply: %d sockets with %d descriptors for %d names", len(got), len(fds), len(names))
	}
	sockets := make([]Socket, len(got))
	used := make([]bool, len(fds))
	for i, g := range got {
		at := g.FileDescriptor
		if g.Name != names[i] || at < 0 || at >= len(fds) || used[at] {
			return nil, malformedf("reply: %q as descriptor %d where %q was asked for", g.Name, at, names[i])
		}
		used[at] = true
		sockets[i] = Socket{Name: g.Name, Network: g.Network, Address: g.Address, FD: fds[at]}
	}
	return sockets, nil
}

func closeSockets(sockets []Socket) {
	for _, s := range sockets {
		_ = s.FD.Close()
	}
}
