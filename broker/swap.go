//go:build linux

package broker

import (
	"errors"
	"net"
	"slices"
	"time"
)

// current returns the socket to accept on and, where there is one, an older one that is
// first.
func (l *Listener) current() (ln, past net.Listener) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.past) > 0 {
		past = l.past[0]
	}
	return l.ln, past
}

// uses reports whether l goes on with ln.
func (l *Listener) uses(ln net.Listener) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ln == ln
}

// pastTime is how long Accept looks for a connection at an old socket: some time, as none
// would mean not to look at all.
const pastTime = 5 * time.Millisecond

// acceptNow returns a connection that is queued at ln, or an error.
func acceptNow(ln net.Listener) (net.Conn, error) {
	d, ok := ln.(interface{ SetDeadline(time.Time) error })
	if !ok {
		return nil, errors.ErrUnsupported
	}
	if err := d.SetDeadline(time.Now().Add(pastTime)); err != nil {
		return nil, err
	}
	return ln.Accept()
}

// forget closes a socket of the past.
func (l *Listener) forget(past net.Listener) {
	_ = past.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.past = slices.DeleteFunc(l.past, func(ln net.Listener) bool { return ln == past })
}

// renew takes s. Where that is another socket than l has, Accept goes on with s, after
// what is queued at the old one.
func (l *Listener) renew(s Socket) {
	ln, _ := l.current()
	if same(ln, s.FD) {
		_ = s.FD.Close()
		return
	}
	next, err := listenerOf(s)
	if err != nil {
		return // it goes on with what it has
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() { // Close has met the old one, or is about to
		_ = next.Close()
		return
	}
	l.ln, l.past = next, append(l.past, ln)
	if d, ok := ln.(interface{ SetDeadline(time.Time) error }); ok {
		_ = d.SetDeadline(time.Unix(1, 0)) // Accept looks around
	}
}
