//go:build linux

package broker

import (
	"cmp"
	"context"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/fdbroker/fdbroker/protocol"
)

// link is the connection that a grant lasts as long as. The last of the handles that use it
// closes it. From the first Accept on a goroutine maintains it: it reads the broker's
// events, and if the broker is lost it reclaims the grant from the next one.
type link struct {
	path  string // of the control socket, as the Dialer has it
	grant atomic.Int64
	first int64 // the first grant, which says how old the link is

	maintaining sync.Once
	maintained  sync.WaitGroup

	mu       sync.Mutex
	exchange *exchange          // until the link is maintained
	cancel   context.CancelFunc // of maintain
	handles  []*handle          // that use the link
	closed   bool
}

// get gets sockets in a grant that lasts as long as the connection that it returns. It also returns that after an error
// of the broker, for its path; it is closed then.
func (l *link) get(ctx context.Context, p protocol.GetParameters) (*exchange, []Socket, error) {
	x, err := newExchange(ctx, l.path)
	if err != nil {
		return nil, nil, err
	}
	p.Blocking = new(false)
	sockets, err := x.get(ctx, true, p)
	if err != nil {
		_ = x.close()
	}
	return x, sockets, err
}

// open returns the handles that still receive.
func (l *link) open() []*handle {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(l.handles), func(h *handle) bool { return h.closed.Load() || h.ended.Load() })
}

// release ends the use of the link by h. The last one ends the grant, and waits for the goroutine that maintains the
// link.
func (l *link) release(h *handle) {
	l.mu.Lock()
	l.handles = slices.DeleteFunc(l.handles, func(is *handle) bool { return is == h })
	last := len(l.handles) == 0
	l.mu.Unlock()
	if last {
		l.close()
		l.maintained.Wait()
	}
}

// close closes the connection, which ends the grant.
func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.cancel != nil {
		l.cancel()
	}
	if l.exchange != nil {
		_ = l.exchange.close()
		l.exchange = nil
	}
}

// generation returns the generation of the link's grant.
func (l *link) generation() int64 {
	return cmp.Or(protocol.GenerationOf(os.Getenv), l.first)
}
