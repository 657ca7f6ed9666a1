//go:build linux

package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

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
// The error is, in the sense of [errors.Is], one of [ErrNoBroker], [ErrLost],
// [ErrMalformed], [ErrUnknownName], [ErrDenied], [ErrFull], [ErrConflict], [ErrReplaced] and
// [ErrLimitReached], or ctx's. A datagram socket is an error too: see DialPacket.
func (d *Dialer) Dial(ctx context.Context, name string) (*Listener, error) {
	all, err := d.DialAll(ctx, name)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// DialAll returns the listeners of those names, in that order, or an error and none. It asks the broker once. The
// caller must close each of them. They share one grant, which lasts until the last is closed.
func (d *Dialer) DialAll(ctx context.Context, names ...string) ([]*Listener, error) {
	return dial(ctx, d, names, newListener)
}

// DialPacket is like Dial, for datagram sockets.
func (d *Dialer) DialPacket(ctx context.Context, name string) (*PacketConn, error) {
	all, err := d.DialPackets(ctx, name)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// DialPackets is like DialAll, for datagram sockets.
func (d *Dialer) DialPackets(ctx context.Context, names ...string) ([]*PacketConn, error) {
	return dial(ctx, d, names, newPacketConn)
}

// dial gets the sockets of names in one grant, and calls make for each, which takes it. On an error it closes all.
func dial[T interface{ Close() error }](ctx context.Context, d *Dialer, names []string, make func(*link, Socket) (T, error)) (all []T, err error) {
	var l *link
	var sockets []Socket
	if err := retry(ctx, d.Wait, func() (err error) {
		l, sockets, err = d.get(ctx, names)
		return err
	}); err != nil {
		return nil, err
	}
	for i, s := range sockets {
		v, err := make(l, s)
		if err != nil {
			for _, s := range sockets[i+1:] {
				_ = s.FD.Close()
			}
			for range sockets[i:] {
				l.release()
			}
			for _, v := range all {
				_ = v.Close()
			}
			return nil, fmt.Errorf("%s (%s %s): %w", s.Name, s.Network, s.Address, err)
		}
		all = append(all, v)
	}
	return all, nil
}

// get returns the sockets of names, and the link that their grant lasts as long as.
func (d *Dialer) get(ctx context.Context, names []string) (*link, []Socket, error) {
	if len(names) == 0 {
		return nil, nil, errors.New("no name to dial")
	}
	x, err := newExchange(ctx, d.Socket)
	if err != nil {
		return nil, nil, err
	}
	grant, sockets, err := x.get(ctx, true, protocol.GetParameters{
		Names: names, Wait: d.Wait, Blocking: new(false), Generation: protocol.GenerationOf(os.Getenv),
	})
	if err != nil {
		_ = x.close()
		return nil, nil, err
	}
	l := &link{path: d.Socket, first: grant, exchange: x, users: len(sockets)}
	l.grant.Store(grant)
	return l, sockets, nil
}

var (
	errStream = errors.New("it accepts connections: use Dial")
	errPacket = errors.New("it receives datagrams: use DialPacket")
)

var (
	_ net.Listener   = (*Listener)(nil)
	_ net.PacketConn = (*PacketConn)(nil)
)
