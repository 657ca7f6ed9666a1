//go:build linux

package broker

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// link is the connection that a grant lasts as long as. The last of those who use
// it closes it. Once somebody accepts, a goroutine attends to it: it hears what the
// broker has to say, and when the broker is lost it takes the grant up again with
// the next one. Nobody who accepts notices that.
type link struct {
	path  string // of the control socket, as the Dialer has it
	grant atomic.Int64
	first int64 // what grant was at first: how old the link is

	attending sync.Once
	attended  sync.WaitGroup

	mu       sync.Mutex
	exchange *exchange          // until somebody attends
	file     *os.File           // the same connection, then
	cancel   context.CancelFunc // of attend
	users    int
	members  []member
	room     [1]member // of members: nearly every link has one
	closed   bool
}

// member is a socket that uses a link.
type member interface {
	// dialed returns the name, or false once the socket is closed.
	dialed() (name string, open bool)
	// drain closes the socket, as the broker asks.
	drain()
	// renew takes what the broker hands out by the name now.
	renew(s Socket)
	// dup returns a duplicate of the socket, which the caller must close.
	dup() (*scmrights.FD, error)
}

func (l *link) join(m member) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.members == nil {
		l.members = l.room[:0]
	}
	l.members = append(l.members, m)
}

// each calls f with each member, without the lock.
func (l *link) each(f func(member)) {
	l.mu.Lock()
	members := l.members
	l.mu.Unlock()
	for _, m := range members {
		f(m)
	}
}

// release is called by each user of the link when it is done. The last one ends the
// grant, and waits until nobody attends any more.
func (l *link) release() {
	l.mu.Lock()
	l.users--
	last := l.users == 0
	l.mu.Unlock()
	if last {
		l.close()
		l.attended.Wait()
	}
}

// close ends the grant. The broker sees that; there is nobody else to tell.
func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.cancel != nil {
		l.cancel()
	}
	if l.file != nil {
		_ = l.file.Close()
	}
	if l.exchange != nil {
		_ = l.exchange.close()
		l.exchange = nil
	}
}

// attend makes a goroutine attend to the link, the first time that it is called.
func (l *link) attend() {
	l.attending.Do(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.closed {
			return
		}
		ctx, cancel := context.WithCancel(context.Background())
		x := l.exchange
		l.cancel, l.exchange = cancel, nil
		l.attended.Go(func() {
			defer cancel()
			l.serve(ctx, x)
		})
	})
}

// serve attends to the link until it is closed or drained. It takes x.
func (l *link) serve(ctx context.Context, x *exchange) {
	for x != nil {
		event, err := l.hear(x)
		switch {
		case ctx.Err() != nil:
			return
		case event == protocol.EventDrain:
			l.drained()
			return
		case event == protocol.EventUnbound:
			// Accepting goes on, and should the name be bound again, with that socket.
			x = l.again(ctx, true)
		case err != nil:
			x = l.again(ctx, false)
		}
	}
}

// drained closes the sockets of the link, and then the link: whoever gets the place
// next must not find two holders.
func (l *link) drained() {
	l.each(member.drain)
	l.close()
}

// hear waits for an event. It takes x, and waits in the runtime's poller, as that takes
// no thread.
func (l *link) hear(x *exchange) (event string, err error) {
	x.conn.Discard() // nothing stands in it: a reply with descriptors comes alone
	f, err := x.stream.File()
	if err != nil {
		return "", err
	}
	l.mu.Lock()
	l.file = f
	closed := l.closed
	l.mu.Unlock()
	defer f.Close()
	if closed {
		return "", os.ErrClosed
	}
	conn, err := protocol.NewConn(f, protocol.MaxReply, 0)
	if err != nil {
		return "", err
	}
	defer conn.Discard()
	for {
		m, ok := conn.Next()
		if !ok {
			if err := conn.Fill(); err != nil {
				return "", err
			}
			continue
		}
		reply, _, ok := protocol.DecodeGetReply(m.Bytes)
		if !ok {
			if reply, err = decodeGetReply(m); err != nil {
				return "", err
			}
		}
		if reply.Event != "" {
			return reply.Event, nil
		}
	}
}

// again takes the grant up with the next broker, however long that takes to come, and
// returns the connection that it lasts as long as now, or nil once the link is closed
// or drained. With wait it is the same broker, and what is missing is the name.
func (l *link) again(ctx context.Context, wait bool) *exchange {
	for pause := retryMin; ; pause = min(2*pause, retryMax) {
		x, err := l.resume(ctx, wait)
		switch {
		case err == nil:
			return x
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrReplaced):
			l.drained()
			return nil
		case errors.Is(err, ErrUnknownName):
			l.offer(ctx)
		case errors.Is(err, ErrNoBroker) || errors.Is(err, ErrLost):
			wait = false // what another broker wants to know is which sockets there are
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

// resume asks for what the link has, once.
func (l *link) resume(ctx context.Context, wait bool) (*exchange, error) {
	var open []member
	p := protocol.GetParameters{Wait: wait, Blocking: new(false), Generation: l.generation(), Resume: l.grant.Load()}
	l.each(func(m member) {
		if name, isOpen := m.dialed(); isOpen {
			open = append(open, m)
			p.Names = append(p.Names, name)
		}
	})
	if len(open) == 0 {
		return nil, os.ErrClosed
	}
	x, err := newExchange(ctx, l.path)
	if err != nil {
		return nil, err
	}
	grant, sockets, err := x.get(ctx, true, p)
	if err != nil {
		_ = x.close()
		return nil, err
	}
	l.grant.Store(grant)
	for i, s := range sockets {
		open[i].renew(s)
	}
	return x, nil
}

// offer gives a broker that has started with nothing the sockets that it lacks.
func (l *link) offer(ctx context.Context) {
	c := Client{Socket: l.path}
	defer c.Close()
	l.each(func(m member) {
		if name, open := m.dialed(); open {
			// Where it is not wanted there is nothing else to do.
			_ = c.Attach(ctx, name, func(string, string) (*scmrights.FD, error) { return m.dup() })
		}
	})
}

// generation returns what the link's grant belongs to.
func (l *link) generation() int64 {
	if n := generationOf(os.Getenv); n != 0 {
		return n
	}
	return l.first
}

// end is how the use of a link by one socket ends.
type end struct {
	link    *link
	leaving sync.Once
	closing sync.Once
	err     error
	closed  atomic.Bool
	drained atomic.Bool
}

// close closes c, the socket that uses the link, and then gives the link back: so
// whoever gets the place next does not find two holders. Closing again returns
// what the first close did.
func (e *end) close(c io.Closer) error {
	e.leaving.Do(func() {
		e.shut(c)
		e.link.release()
	})
	return e.err
}

func (e *end) shut(c io.Closer) {
	e.closing.Do(func() {
		e.closed.Store(true)
		e.err = c.Close()
	})
}
