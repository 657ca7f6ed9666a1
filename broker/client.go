//go:build linux

package broker

import (
	"cmp"
	"context"
	"net"
	"os"
	"sync"

	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// Client calls a broker. It connects at its first call, and again after the connection was
// lost. The zero Client is ready to use. Its methods may be called concurrently; it makes
// one call at a time, so a Get that waits holds up the others.
//
// In the sense of [errors.Is], the error of each method is [ErrNoBroker], [ErrLost] or [ErrMalformed] if there is no
// valid answer, ctx's if that ended first, [net.ErrClosed] after Close, and otherwise one of those that the method
// names. After ErrLost the broker may have done what it was asked.
type Client struct {
	// Socket is the path of the control socket; "" means the default, see the package's
	// comment. It must not change once the Client is used.
	Socket string

	once     sync.Once
	turn     chan struct{}   // holds a value while a call is under way
	open     context.Context // until Close
	close    context.CancelFunc
	exchange *exchange // of the call that has its turn
}

// Socket is a socket that the broker has handed out. Its receiver must close FD.
type Socket struct {
	Name    string
	Network string // tcp, tcp4, tcp6, udp, udp4, udp6, unix, unixpacket or unixgram
	Address string // that was bound: for port 0, the real one
	FD      *scmrights.FD
}

// GetOptions changes what Get does. The zero GetOptions fails instead of waiting, and accepts O_NONBLOCK as it is.
type GetOptions struct {
	// Wait makes Get wait for a broker that is not up, a name that is not bound, and a free place.
	Wait bool
	// Blocking says whether the sockets must block; nil: either is fine.
	Blocking *bool
	// DrainSignal is the signal that asks this process to leave, without "SIG", such as "TERM"; "": none.
	DrainSignal string
	// Generation is the deploy that this process belongs to; 0: the one that [GenerationEnv] says, if any.
	Generation int64
}

// Get returns the sockets of the named listeners, all or none, in that order; the caller must close their FDs. The
// grant lasts as long as this process, even if it executes another program or closes the FDs and the Client. Get is for
// programs that become a worker by exec; others use a [Dialer].
//
// Errors: [ErrUnknownName], [ErrDenied], [ErrFull], [ErrConflict], [ErrReplaced].
func (c *Client) Get(ctx context.Context, o GetOptions, names ...string) (sockets []Socket, err error) {
	p := protocol.GetParameters{
		Names: names, Wait: o.Wait, Blocking: o.Blocking, DrainSignal: o.DrainSignal,
		Generation: cmp.Or(o.Generation, protocol.GenerationOf(os.Getenv)),
	}
	err = retry(ctx, o.Wait, func() error {
		return c.do(ctx, func(ctx context.Context, x *exchange) (err error) {
			sockets, err = x.get(ctx, false, p)
			return err
		})
	})
	return sockets, err
}

// List returns the listeners and their holders, as far as this user may see them.
func (c *Client) List(ctx context.Context) (list protocol.ListReply, err error) {
	return list, c.call(ctx, protocol.MethodList, nil, &list)
}

// Bind binds listeners by their specs (NAME=ADDRESS[,OPTION[=VALUE]]...), all or none, and
// returns them as they are now.
//
// Errors: [ErrBindFailed], [ErrNameInUse], [ErrDenied], [ErrLimitReached].
func (c *Client) Bind(ctx context.Context, specs ...string) ([]protocol.Listener, error) {
	var reply protocol.BindReply
	err := c.call(ctx, protocol.MethodBind, protocol.BindParameters{Listeners: specs}, &reply)
	return reply.Listeners, err
}

// Unbind closes the broker's sockets of the named listeners, all or none. Their holders go on accepting.
//
// Errors: [ErrUnknownName], [ErrDenied].
func (c *Client) Unbind(ctx context.Context, names ...string) error {
	_, err := c.UnbindRemaining(ctx, names...)
	return err
}

// UnbindRemaining is Unbind. It also returns the processes that still have one of the sockets, as far as the broker can
// see them.
func (c *Client) UnbindRemaining(ctx context.Context, names ...string) ([]protocol.Remaining, error) {
	var reply protocol.UnbindReply
	err := c.call(ctx, protocol.MethodUnbind, protocol.UnbindParameters{Names: names}, &reply)
	return reply.Remaining, err
}

// Reload makes the broker read its configuration again, and returns the names of the
// listeners that this has changed. On an error nothing has changed. It is an error to unbind a listener that is in use.
//
// Errors: [ErrReloadFailed], [ErrBindFailed], [ErrNameInUse], [ErrDenied], [ErrLimitReached].
func (c *Client) Reload(ctx context.Context) (changes protocol.ReloadReply, err error) {
	return c.ReloadWith(ctx, ReloadOptions{})
}

// ReloadOptions changes what ReloadWith does.
type ReloadOptions struct {
	// Force unbinds listeners that are in use, and loads a file that looks as if it had been cut short.
	Force bool
	// Rebind gives a listener a new socket even if processes hold the old one and do not follow by themselves. The
	// broker asks those processes to leave.
	Rebind bool
}

// ReloadWith is Reload with options.
func (c *Client) ReloadWith(ctx context.Context, o ReloadOptions) (changes protocol.ReloadReply, err error) {
	return changes, c.call(ctx, protocol.MethodReload, protocol.ReloadParameters{Force: o.Force, Rebind: o.Rebind}, &changes)
}

// Upgrade makes the program that is now at the broker's path take over. It returns once that
// is certain to begin; the new broker answers later calls. On an error the old one goes on.
//
// Errors: [ErrUpgradeFailed], [ErrDenied].
func (c *Client) Upgrade(ctx context.Context) error {
	return c.call(ctx, protocol.MethodUpgrade, nil, nil)
}

// PutOptions changes what Put does. The zero PutOptions makes a listener for root and the broker's user.
type PutOptions struct {
	// Options are those that follow the address in a spec, such as "allow=group:www,max=2".
	Options string
	// Any accepts any descriptor: a pipe, a memfd, a connected socket. Without it, the
	// descriptor must be a socket that is bound and, if it takes connections, listens.
	Any bool
	// PID is a process that accepts on the socket and becomes its holder; 0: none.
	PID int
	// DrainSignal is the signal that asks that process to leave, without "SIG", such as "TERM"; empty: none.
	DrainSignal string
}

// Put makes fd, which it borrows, the broker's listener of that name, and returns that as it is now. If the same socket
// has the name already, nothing changes. The caller may go on using fd.
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

// HandBack is a socket that is handed back.
type HandBack struct {
	FD *scmrights.FD
	// Holders are the pids of processes that have the socket open and descend from the caller. The broker makes them
	// holders again if they are the caller's user's, or if the caller is root.
	Holders []int
	// DrainSignal is the signal that asks them to leave, without "SIG", such as "TERM"; "": none.
	DrainSignal string
	// Generation is their deploy's; 0: they belong to none.
	Generation int64
}

// Attach hands a socket back that an earlier broker has handed out. It first asks whether
// the broker wants it: for some seconds after its start, a broker that finds the address in
// use does. Only then Attach calls find with network and address as the listener's spec has
// them, and closes the descriptor that find returns. It returns an error of find as it is.
//
// Errors: [ErrNameInUse] if the listener is bound already, [ErrUnknownName] if there is none
// of that name, [ErrBindFailed] if it is another socket, and [ErrDenied].
func (c *Client) Attach(ctx context.Context, name string, find func(network, address string) (HandBack, error)) error {
	return c.do(ctx, func(ctx context.Context, x *exchange) error {
		p := protocol.AttachParameters{Name: name}
		var reply protocol.AttachReply
		if err := x.call(ctx, protocol.MethodAttach, p, &reply); err != nil {
			return err
		}
		found, err := find(reply.Network, reply.Address)
		if err != nil {
			return err
		}
		defer found.FD.Close()
		p.Holders, p.DrainSignal, p.Generation = found.Holders, found.DrainSignal, found.Generation
		p.FileDescriptor = new(0)
		return x.call(ctx, protocol.MethodAttach, p, nil, found.FD)
	})
}

// Info returns which broker answers.
func (c *Client) Info(ctx context.Context) (info protocol.Info, err error) {
	return info, c.call(ctx, protocol.MethodGetInfo, nil, &info)
}

// Close closes the connection. Calls under way and later ones fail with [net.ErrClosed]. Closing again does nothing.
func (c *Client) Close() error {
	c.init()
	c.close()
	c.turn <- struct{}{} // the call under way ends now
	defer func() { <-c.turn }()
	return c.disconnect()
}

func (c *Client) init() {
	c.once.Do(func() {
		c.turn = make(chan struct{}, 1)
		c.open, c.close = context.WithCancel(context.Background())
	})
}

// disconnect closes the connection. It is for the call that has its turn.
func (c *Client) disconnect() error {
	if c.exchange == nil {
		return nil
	}
	err := c.exchange.close()
	c.exchange = nil
	return err
}

// call makes a call whose reply comes without descriptors.
func (c *Client) call(ctx context.Context, method string, parameters, reply any) error {
	return c.do(ctx, func(ctx context.Context, x *exchange) error {
		return x.call(ctx, method, parameters, reply)
	})
}

// do calls f with the connection, once no other call is under way.
func (c *Client) do(ctx context.Context, f func(context.Context, *exchange) error) error {
	c.init()
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-c.turn }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.open, cancel)()
	err := c.open.Err()
	if err == nil {
		err = c.try(ctx, f)
	}
	if err != nil && c.open.Err() != nil {
		return net.ErrClosed
	}
	return err
}

// try calls f with the connection. If the connection turns out to have been dead already, as after a restart of the
// broker, it calls f once more with a new one. It does not repeat a call that the broker may have seen. After an error
// that is not the broker's answer, the connection is of no more use.
func (c *Client) try(ctx context.Context, f func(context.Context, *exchange) error) (err error) {
	for {
		used := c.exchange != nil
		if !used {
			if c.exchange, err = newExchange(ctx, c.Socket); err != nil {
				return err
			}
		}
		err = f(ctx, c.exchange)
		if err != nil && !protocol.IsReply(err) {
			_ = c.disconnect()
		}
		if !used || !unseen(err) {
			return err
		}
	}
}
