//go:build linux

package broker

import (
	"context"
	"os"
	"sync"
	"sync/atomic"

	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// link is the connection that a grant lasts as long as. The last of the sockets that use it
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
	file     *os.File           // the same connection, from then on
	cancel   context.CancelFunc // of maintain
	users    int
	members  []member
	closed   bool
}

// member is a socket that uses a link: a [handle].
type member interface {
	// dialed returns the name, and false once the socket is closed.
	dialed() (name string, open bool)
	// drain closes the socket because the broker asks for it.
	drain()
	// renew takes the socket that the broker hands out by the name now.
	renew(s Socket)
	// dup returns a duplicate of the socket, which the caller must close.
	dup() (*scmrights.FD, error)
}

func (l *link) join(m member) {
	l.mu.Lock()
	defer l.mu.Unlock()
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

// release is called once by each user of the link. The last call ends the grant, and waits
// for the goroutine that maintains the link.
func (l *link) release() {
	l.mu.Lock()
	l.users--
	last := l.users == 0
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
	if l.file != nil {
		_ = l.file.Close()
	}
	if l.exchange != nil {
		_ = l.exchange.close()
		l.exchange = nil
	}
}

// generation returns the generation of the link's grant.
func (l *link) generation() int64 {
	if n := protocol.GenerationOf(os.Getenv); n != 0 {
		return n
	}
	return l.first
}
