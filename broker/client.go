//go:build linux

package broker

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/fdbroker/fdbroker/protocol"
)

// Client asks a broker things and tells it things. It connects when it is first
// used, and again after the connection was lost. The zero Client is ready to use;
// its methods may be called concurrently, and wait for one another.
//
// Each method returns an error that is [ErrNoBroker] or [ErrLost], in the sense of
// [errors.Is], where there is no answer, ctx's error where that ends first, and
// otherwise those it names.
type Client struct {
	// Socket is the path of the control socket; "" means the default, see the
	// package's comment. It must not be changed once the Client is used.
	Socket string

	mu       sync.Mutex
	exchange *exchange
	closed   bool
}

// GetOptions says what Get is to do. The zero GetOptions fails rather than waits,
// and takes O_NONBLOCK as it is.
type GetOptions struct {
	// Wait for a broker that is not up, names that are not bound, and free places.
	Wait bool
	// Blocking says what O_NONBLOCK must be for the caller; nil: no need.
	Blocking *bool
}

// Get returns the sockets of the named listeners, all or none, in that order; the
// caller must close their FDs. The grant lasts as long as this process, whatever
// it executes and whatever becomes of the Client.
//
// Errors: [ErrUnknownName], [ErrDenied], [ErrFull], [ErrConflict].
func (c *Client) Get(ctx context.Context, o GetOptions, names ...string) (sockets []Socket, err error) {
	ask := func() error {
		return c.do(ctx, func(x *exchange) error {
			_, sockets, err = x.get(ctx, false, protocol.GetParameters{Names: names, Wait: o.Wait, Blocking: o.Blocking})
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

// Info returns who answers.
func (c *Client) Info(ctx context.Context) (info protocol.Info, err error) {
	return info, c.call(ctx, protocol.MethodGetInfo, nil, &info)
}

// Close closes the connection. Later calls fail with [net.ErrClosed].
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return c.drop()
}

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
	return c.do(ctx, func(x *exchange) error {
		raw, fds, err := x.call(ctx, protocol.Call{Method: method}, parameters)
		if err != nil {
			return err
		}
		if len(fds) > 0 {
			for _, f := range fds {
				_ = f.Close()
			}
			return errors.New("the broker sent descriptors that nobody asked for")
		}
		if reply == nil {
			return nil
		}
		return protocol.DecodeParameters(raw, reply)
	})
}

// do calls f with the connection: one more time where that turns out to be dead
// already, as after a restart of the broker. Only an error of the broker's own
// leaves a connection fit for use.
func (c *Client) do(ctx context.Context, f func(*exchange) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if c.closed {
			return net.ErrClosed
		}
		used := c.exchange != nil
		if !used {
			x, err := newExchange(ctx, c.Socket)
			if err != nil {
				return err
			}
			c.exchange = x
		}
		err := f(c.exchange)
		if err != nil && !protocol.IsReply(err) {
			_ = c.drop()
		}
		if !used || !errors.Is(err, ErrLost) {
			return err
		}
	}
}
