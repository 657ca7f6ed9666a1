//go:build linux

package broker

import (
	"context"
	"io"
	"os"
	"sync"
	"sync/atomic"

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

// generation returns what the link's grant belongs to.
func (l *link) generation() int64 {
	if n := protocol.GenerationOf(os.Getenv); n != 0 {
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
