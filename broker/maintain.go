//go:build linux

package broker

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/fdbroker/fdbroker/internal/backoff"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// The longest delays between attempts to reclaim a grant.
const (
	absentMax  = time.Second      // if there is no broker
	refusedMax = 30 * time.Second // if the broker has refused
)

// maintain makes a goroutine maintain the link, the first time that it is called.
func (l *link) maintain() {
	l.maintaining.Do(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.closed {
			return
		}
		ctx, cancel := context.WithCancel(context.Background())
		x := l.exchange
		l.cancel, l.exchange = cancel, nil
		l.maintained.Go(func() {
			defer cancel()
			l.run(ctx, x)
		})
	})
}

// run maintains the link until it is closed or drained. It takes x.
func (l *link) run(ctx context.Context, x *exchange) {
	r := reclaim{link: l}
	for x != nil {
		begun := time.Now()
		event, _ := l.readEvent(ctx, x)
		if ctx.Err() != nil {
			return
		}
		// If all names were unbound, accepting goes on too. Should one be bound again, it goes on with that socket.
		if event != "" || time.Since(begun) > absentMax {
			r.retry.Last = 0
		}
		x = r.run(ctx)
	}
}

// drained closes the link after its sockets, so that the holder that gets the place never finds two.
func (l *link) drained() {
	for _, h := range l.open() {
		h.drain()
	}
	l.close()
}

// readEvent waits for an event, and handles a drain. It takes x, and waits in the runtime's poller, because that needs
// no thread.
func (l *link) readEvent(ctx context.Context, x *exchange) (event string, err error) {
	x.conn.Discard() // it is empty: a reply with descriptors comes alone
	f, err := x.stream.File()
	if err != nil {
		return "", err
	}
	defer f.Close()
	defer context.AfterFunc(ctx, func() { _ = f.Close() })()
	sc, err := scmrights.NewConn(f)
	if err != nil {
		return "", err
	}
	conn := protocol.NewConn(sc, protocol.MaxReply, 0)
	defer conn.Discard()
	for {
		m, err := conn.Receive()
		if err != nil {
			return "", err
		}
		reply, err := protocol.ParseGetReply(m.Bytes)
		if reply.Event == protocol.EventDrain {
			l.drained()
		}
		if err != nil || reply.Event != "" {
			return reply.Event, err
		}
	}
}

// reclaim is the attempts to reclaim the grant of a link after its connection was lost.
type reclaim struct {
	*link
	retry      backoff.Backoff
	waits      bool     // at the broker, for a name or a place
	handedBack bool     // the sockets were offered to this broker
	without    []string // names that this broker does not have, while it has others
}

// run reclaims the grant from the next broker, however long that takes to come. It returns the connection that the
// grant lasts as long as now, or nil once the link is closed or drained.
func (r *reclaim) run(ctx context.Context) *exchange {
	*r = reclaim{link: r.link, retry: r.retry}
	for wait := r.retry.Last; ; { // 0, except if the connection before has not lasted
		if backoff.Sleep(ctx, wait) != nil {
			return nil
		}
		x, err := r.try(ctx)
		switch {
		case err == nil:
			r.delay(absentMax)
			return x
		case ctx.Err() != nil || errors.Is(err, os.ErrClosed):
			return nil
		case errors.Is(err, ErrReplaced): // meanwhile
			r.drained()
			return nil
		}
		wait = r.refused(ctx, err)
	}
}

// delay returns the next delay, at most limit.
func (r *reclaim) delay(limit time.Duration) time.Duration {
	r.retry.Max = limit
	return r.retry.Next()
}

// refused prepares the next attempt after the error of one, and returns the delay before it.
func (r *reclaim) refused(ctx context.Context, err error) time.Duration {
	unknown, isUnknown := errors.AsType[*protocol.UnknownNameError](err)
	switch {
	case isAway(err):
		*r = reclaim{link: r.link, retry: r.retry} // the next one is another broker
		return r.delay(absentMax)
	case errors.Is(err, ErrUnknownName) && !r.handedBack:
		r.handBack(ctx)
		r.handedBack, r.waits = true, len(r.wanted()) == 1
		return 0
	case isUnknown && !r.waits && r.dropName(unknown.Name):
		return 0
	case !r.waits && (errors.Is(err, ErrUnknownName) || errors.Is(err, ErrFull)):
		r.waits = true
		return 0
	}
	return r.delay(refusedMax)
}

// dropName makes r go on without a name, if it has others.
func (r *reclaim) dropName(name string) bool {
	if len(r.wanted()) < 2 {
		return false
	}
	r.without = append(r.without, name)
	return true
}

// wanted returns the handles whose sockets r reclaims.
func (r *reclaim) wanted() []*handle {
	return slices.DeleteFunc(r.open(), func(h *handle) bool { return slices.Contains(r.without, h.name) })
}

// try asks the broker once for the sockets of the link.
func (r *reclaim) try(ctx context.Context) (*exchange, error) {
	handles := r.wanted()
	if len(handles) == 0 {
		return nil, os.ErrClosed
	}
	names := make([]string, len(handles))
	for i, h := range handles {
		names[i] = h.name
	}
	x, sockets, err := r.get(ctx, protocol.GetParameters{
		Names: names, Wait: r.waits, Generation: r.generation(), Resume: r.grant.Load(),
	})
	if err != nil {
		return nil, err
	}
	for i, s := range sockets {
		handles[i].renew(s)
	}
	r.grant.Store(x.grant)
	return x, nil
}

// handBack offers the link's sockets to a broker that has started with nothing. If it does
// not want them, there is nothing else to do.
func (l *link) handBack(ctx context.Context) {
	c := Client{Socket: l.path}
	defer c.Close()
	for _, h := range l.open() {
		_ = c.Attach(ctx, h.name, func(string, string) (HandBack, error) {
			fd, err := h.dup()
			return HandBack{FD: fd}, err
		})
	}
}
