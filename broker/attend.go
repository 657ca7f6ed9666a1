//go:build linux

package broker

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// How long a link waits at most before it looks again for a broker, and before it asks
// one again that has refused it.
const (
	againMax   = time.Second
	refusedMax = 30 * time.Second
)

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
	r := resumption{link: l}
	for x != nil {
		begun := time.Now()
		event, _ := l.hear(x)
		if ctx.Err() != nil {
			return
		}
		if event == protocol.EventDrain {
			l.drained()
			return
		}
		// Also where the last of the names was unbound accepting goes on, and should it
		// be bound again, with that socket.
		if event != "" || time.Since(begun) > againMax {
			r.paused = 0
		}
		x = r.again(ctx)
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
		m, err := conn.Receive()
		if err != nil {
			return "", err
		}
		reply, err := protocol.ParseGetReply(m.Bytes)
		if err != nil {
			return "", err
		}
		if reply.Event != "" {
			return reply.Event, nil
		}
	}
}

// resumption is the attempts to take the grant of a link up again.
type resumption struct {
	*link
	waits   bool            // at the broker, for what is missing
	offered bool            // it has been offered the sockets
	without map[string]bool // names that there are not any more, while there are others
	paused  time.Duration
}

// again takes the grant up with the next broker, however long that takes to come, and
// returns the connection that it lasts as long as now, or nil once the link is closed
// or drained.
func (r *resumption) again(ctx context.Context) *exchange {
	*r = resumption{link: r.link, paused: r.paused}
	for wait := r.paused; ; { // none, but where the connection before has not lasted
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
		x, err := r.try(ctx)
		switch {
		case err == nil:
			r.paused = min(max(2*r.paused, retryMin), againMax)
			return x
		case ctx.Err() != nil || errors.Is(err, os.ErrClosed):
			return nil
		case errors.Is(err, ErrReplaced):
			r.drained() // meanwhile
			return nil
		}
		wait = r.pause(ctx, err)
	}
}

// pause makes of err what the next attempt is to do, and returns how long to wait until
// then.
func (r *resumption) pause(ctx context.Context, err error) time.Duration {
	unknown, isUnknown := errors.AsType[*protocol.UnknownNameError](err)
	switch {
	case errors.Is(err, ErrUnknownName) && !r.offered:
		r.offer(ctx)
		_, names := r.open()
		r.offered, r.waits = true, len(names) == 1
		return 0
	case isUnknown && !r.waits && r.others(unknown.Name):
		return 0
	case errors.Is(err, ErrUnknownName) || errors.Is(err, ErrFull):
		if !r.waits {
			r.waits = true
			return 0
		}
	}
	most := refusedMax
	if errors.Is(err, ErrNoBroker) || errors.Is(err, ErrLost) {
		*r = resumption{link: r.link, paused: r.paused} // the next one is another broker
		most = againMax
	}
	r.paused = min(max(2*r.paused, retryMin), most)
	return r.paused
}

// others makes r go on without a name, if it has others.
func (r *resumption) others(name string) bool {
	if _, names := r.open(); len(names) < 2 {
		return false
	}
	if r.without == nil {
		r.without = make(map[string]bool)
	}
	r.without[name] = true
	return true
}

// open returns the sockets that are to be had again, and their names.
func (r *resumption) open() (members []member, names []string) {
	r.each(func(m member) {
		if name, isOpen := m.dialed(); isOpen && !r.without[name] {
			members = append(members, m)
			names = append(names, name)
		}
	})
	return members, names
}

// try asks for what the link has, once.
func (r *resumption) try(ctx context.Context) (*exchange, error) {
	members, names := r.open()
	if len(names) == 0 {
		return nil, os.ErrClosed
	}
	x, err := newExchange(ctx, r.path)
	if err != nil {
		return nil, err
	}
	grant, sockets, err := x.get(ctx, true, protocol.GetParameters{
		Names: names, Wait: r.waits, Blocking: new(false), Generation: r.generation(), Resume: r.grant.Load(),
	})
	if err != nil {
		_ = x.close()
		return nil, err
	}
	for i, s := range sockets {
		members[i].renew(s)
	}
	r.grant.Store(grant)
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
