//go:build linux

package broker

import (
	"context"
	"net"
	"os"
	"sync"

	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// Client asks a broker things and tells it things. It connects when it is first
// used, and again after the connection was lost. The zero Client is ready to use.
// Its methods may be called concurrently; one call is made at a time, so a Get that
// waits holds up the others.
//
// In the sense of [errors.Is], the error of each method is [ErrNoBroker], [ErrLost]
// or [ErrMalformed] where there is no answer or none that makes sense, ctx's where
// that ended first, [net.ErrClosed] after Close, and otherwise one of those that
// the method names. After ErrLost the broker may have done what it was asked.
type Client struct {
	// Socket is the path of the control socket; "" means the default, see the
	// package's comment. It must not be changed once the Client is used.
	Socket string

	mu     sync.Mutex
	turn   chan struct{}      // see turnLocked
	cancel context.CancelFunc // of the call under way
	closed bool

	exchange *exchange // belongs to whoever has the turn
}

// GetOptions says what Get is to do. The zero GetOptions fails rather than waits,
// and takes O_NONBLOCK as it is.
type GetOptions struct {
	// Wait for a broker that is not up, names that are not bound, and free places.
	Wait bool
	// Blocking says what O_NONBLOCK must be for the caller; nil: no need.
	Blocking *bool
	// DrainSignal is what this process gets when it is asked to leave, without "SIG",
	// such as "TERM"; "": nothing.
	DrainSignal string
	// Generation is the deploy that this process belongs to; 0: what [GenerationEnv]
	// says, if anything.
	Generation int64
}

// Get returns the sockets of the named listeners, all or none, in that order; the
// caller must close their FDs. The grant lasts as long as this process, whatever
// it executes and whatever becomes of the FDs and the Client: Get is for programs
// that become a worker by exec. Others want a [Dialer].
//
// Errors: [ErrUnknownName], [ErrDenied], [ErrFull], [ErrConflict], [ErrReplaced].
func (c *Client) Get(ctx context.Context, o GetOptions, names ...string) (sockets []Socket, err error) {
	p := protocol.GetParameters{
		Names: names, Wait: o.Wait, Blocking: o.Blocking, DrainSignal: o.DrainSignal, Generation: o.Generation,
	}
	if p.Generation == 0 {
		p.Generation = protocol.GenerationOf(os.Getenv)
	}
	ask := func() error {
		return c.do(ctx, func(ctx context.Context, x *exchange) error {
			_, sockets, err = x.get(ctx, false, p)
			return err
		})
	}
	if o.Wait {
		return sockets, retry(ctx, ask)
	}
	return sockets, ask()
}

// List returns what there is and who holds it, as far as this user may see it.
func (c *Client) List(ctx context.Context) (list protocol.ListReply, err error) {
	return list, c.call(ctx, protocol.MethodList, nil, &list)
}

// Bind binds listeners from their specs (NAME=ADDRESS[,OPTION[=VALUE]]...), all or
// none, and returns them as they are now.
//
// Errors: [ErrBindFailed], [ErrNameInUse], [ErrDenied], [ErrLimitReached].
func (c *Client) Bind(ctx context.Context, specs ...string) ([]protocol.Listener, error) {
	var reply protocol.BindReply
	err := c.call(ctx, protocol.MethodBind, protocol.BindParameters{Listeners: specs}, &reply)
	return reply.Listeners, err
}

// Unbind closes the broker's sockets of the named listeners, all or none. Who
// holds one goes on accepting on it.
//
// Errors: [ErrUnknownName], [ErrDenied].
func (c *Client) Unbind(ctx context.Context, names ...string) error {
	return c.call(ctx, protocol.MethodUnbind, protocol.UnbindParameters{Names: names}, nil)
}

// Reload makes the broker read its configuration again, and returns the names of
// the listeners for which that changed something. On an error nothing has changed.
//
// Errors: [ErrReloadFailed], [ErrBindFailed], [ErrNameInUse], [ErrDenied],
// [ErrLimitReached].
func (c *Client) Reload(ctx context.Context) (changes protocol.ReloadReply, err error) {
	return changes, c.call(ctx, protocol.MethodReload, nil, &changes)
}

// Upgrade makes the program that is now where the broker was started from take over. It
// returns once that is certain to begin; who calls next is answered by the new broker. On
// an error the old one goes on.
//
// Errors: [ErrUpgradeFailed], [ErrDenied].
func (c *Client) Upgrade(ctx context.Context) error {
	return c.call(ctx, protocol.MethodUpgrade, nil, nil)
}

// Info returns who answers.
func (c *Client) Info(ctx context.Context) (info protocol.Info, err error) {
	return info, c.call(ctx, protocol.MethodGetInfo, nil, &info)
}

// Close closes the connection. Calls under way and later ones fail with
// [net.ErrClosed]. Closing again does nothing.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	if c.cancel != nil {
		c.cancel()
	}
	turn := c.turnLocked()
	c.mu.Unlock()
	turn <- struct{}{} // the call under way ends now
	defer func() { <-turn }()
	return c.drop()
}

// turnLocked returns the channel that holds a value while a call is under way.
func (c *Client) turnLocked() chan struct{} {
	if c.turn == nil {
		c.turn = make(chan struct{}, 1)
	}
	return c.turn
}

// begin waits until no other call is under way. Close ends the context that it
// returns, and end must be called when the call is done.
func (c *Client) begin(ctx context.Context) (_ context.Context, end func(), err error) {
	c.mu.Lock()
	turn := c.turnLocked()
	c.mu.Unlock()
	select {
	case turn <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	ctx, cancel := context.WithCancel(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		cancel()
		<-turn
		return nil, nil, net.ErrClosed
	}
	c.cancel = cancel
	return ctx, func() {
		c.mu.Lock()
		c.cancel = nil
		c.mu.Unlock()
		cancel()
		<-turn
	}, nil
}

func (c *Client) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// drop closes the connection. It is for whoever has the turn.
func (c *Client) drop() error {
	if c.exchange == nil {
		return nil
	}
	err := c.exchange.close()
	c.exchange = nil
	return err
}

// call makes a call with a plain reply.
func (c *Client) call(ctx context.Context, method string, parameters, reply any) error {
	return c.do(ctx, func(ctx context.Context, x *exchange) error {
		raw, fds, err := x.call(ctx, protocol.Call{Method: method}, parameters)
		if err != nil {
			return err
		}
		if len(fds) > 0 {
			scmrights.CloseAll(fds)
			return malformedf("reply: %d descriptors that nobody asked for", len(fds))
		}
		if reply == nil {
			return nil
		}
		return decode(raw, reply)
	})
}

// do calls f with the connection, when it is its turn.
func (c *Client) do(ctx context.Context, f func(context.Context, *exchange) error) error {
	ctx, end, err := c.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	if err = c.try(ctx, f); err != nil && c.isClosed() {
		return net.ErrClosed
	}
	return err
}

// try calls f with the connection: one more time, with a new one, where that turns
// out to have been dead already, as after a restart of the broker. A call that the
// broker may have seen is not made again. Only an error of the broker's own
// leaves a connection fit for use.
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
			_ = c.drop()
		}
		if !used || !unseen(err) {
			return err
		}
	}
}
