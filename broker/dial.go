//go:build linux

package broker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/fdbroker/fdbroker/protocol"
)

// Dial returns the listener of that name, from the broker at the default control socket; the
// caller must close it. A [Dialer] has more options.
func Dial(name string) (*Listener, error) {
	return new(Dialer).Dial(context.Background(), name)
}

// DialPacket is like [Dial], for datagram sockets.
func DialPacket(name string) (*PacketConn, error) {
	return new(Dialer).DialPacket(context.Background(), name)
}

// Dialer gets listeners from a broker. The zero Dialer is ready to use; its methods may be called concurrently.
type Dialer struct {
	// Socket is the path of the control socket; "" means the default, see the package's comment.
	Socket string
	// Wait makes dialing wait, until its context is done, for a broker that is not up, a name
	// that is not bound, and a free place, instead of failing.
	Wait bool
}

// Dial returns the listener of that name, which the caller must close. The grant lasts until
// then, or until this process exits.
//
// The error says which listener was asked for, and at which control socket. It is, in the sense of [errors.Is], one of
// [ErrNoBroker], [ErrLost], [ErrMalformed], [ErrUnknownName], [ErrDenied], [ErrFull], [ErrConflict], [ErrReplaced] and
// [ErrLimitReached], or ctx's. A datagram socket is an error too: see DialPacket.
func (d *Dialer) Dial(ctx context.Context, name string) (*Listener, error) {
	handles, err := d.dial(ctx, "Dial", []string{name}, false)
	if err != nil {
		return nil, err
	}
	return &Listener{handle: handles[0]}, nil
}

// DialAll returns the listeners of those names, in that order, or an error and none. It asks the broker once. The
// caller must close each of them. They share one grant, which lasts until the last is closed.
func (d *Dialer) DialAll(ctx context.Context, names ...string) ([]*Listener, error) {
	handles, err := d.dial(ctx, "DialAll", names, false)
	var all []*Listener
	for _, h := range handles {
		all = append(all, &Listener{handle: h})
	}
	return all, err
}

// DialPacket is like Dial, for datagram sockets.
func (d *Dialer) DialPacket(ctx context.Context, name string) (*PacketConn, error) {
	handles, err := d.dial(ctx, "DialPacket", []string{name}, true)
	if err != nil {
		return nil, err
	}
	return &PacketConn{handles[0]}, nil
}

// DialPackets is like DialAll, for datagram sockets.
func (d *Dialer) DialPackets(ctx context.Context, names ...string) ([]*PacketConn, error) {
	handles, err := d.dial(ctx, "DialPackets", names, true)
	var all []*PacketConn
	for _, h := range handles {
		all = append(all, &PacketConn{h})
	}
	return all, err
}

// dial gets the sockets of names in one grant, for the method op.
func (d *Dialer) dial(ctx context.Context, op string, names []string, packet bool) ([]*handle, error) {
	if len(names) == 0 {
		return nil, dialError(op, names, "", errors.New("no name to dial"))
	}
	l, path := &link{path: d.Socket}, ""
	var sockets []Socket
	err := retry(ctx, d.Wait, func() (err error) {
		l.exchange, sockets, err = l.get(ctx, protocol.GetParameters{
			Names: names, Wait: d.Wait, Generation: protocol.GenerationOf(os.Getenv),
		})
		if path = ""; l.exchange != nil {
			path = l.exchange.path
		}
		return err
	})
	if err == nil {
		err = l.openAll(sockets, packet)
	}
	if err != nil {
		return nil, dialError(op, names, path, err)
	}
	return slices.Clone(l.handles), nil
}

// openAll makes handles of sockets, which it takes. After an error it has closed the link.
func (l *link) openAll(sockets []Socket, packet bool) error {
	l.first = l.exchange.grant
	l.grant.Store(l.first)
	for i, s := range sockets {
		socket, err := openSocket(s, packet)
		if err != nil {
			for _, s := range sockets[i+1:] {
				_ = s.FD.Close()
			}
			for _, h := range l.handles {
				h.shut()
			}
			l.close()
			return fmt.Errorf("%s (%s %s): %w", s.Name, s.Network, s.Address, err)
		}
		l.handles = append(l.handles, &handle{name: s.Name, packet: packet, link: l, socket: socket})
	}
	return nil
}

// dialError returns err with what was called. The path of the control socket is empty if err names it.
func dialError(op string, names []string, path string, err error) error {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = strconv.Quote(name)
	}
	what := "broker." + op
	if len(names) > 0 {
		what += " " + strings.Join(quoted, ", ")
	}
	if path != "" {
		what += " at " + path
	}
	return fmt.Errorf("%s: %w", what, err)
}
