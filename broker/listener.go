//go:build linux

package broker

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fdbroker/fdbroker/scmrights"
)

// Listener is a [net.Listener] on a socket that the broker owns and others may
// accept on too. Its methods may be called concurrently.
//
// Losing the broker does not disturb it: it goes on accepting, and takes its grant up
// again as soon as there is a broker.
type Listener struct {
	name string
	end

	mu   sync.Mutex
	ln   net.Listener
	past []net.Listener // that the broker had before, until nothing is queued there

	accepted  atomic.Bool // anything
	drainedAt time.Time
}

// newListener takes s and makes a Listener of it, which uses l.
func newListener(l *link, s Socket) (*Listener, error) {
	ln, err := listenerOf(s)
	if err != nil {
		return nil, err
	}
	listener := &Listener{name: s.Name, end: end{link: l}, ln: ln}
	l.join(listener)
	return listener, nil
}

// listenerOf takes s and returns it as a listener.
func listenerOf(s Socket) (ln net.Listener, err error) {
	if isPacket(s.Network) {
		_ = s.FD.Close()
		return nil, errPacket
	}
	err = s.file(func(f *os.File) (err error) {
		ln, err = net.FileListener(f)
		return err
	})
	if err != nil {
		if ln != nil {
			_ = ln.Close()
		}
		return nil, err
	}
	if u, ok := ln.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false) // the path is the broker's
	}
	return ln, nil
}

// Close makes Accept return, closes this process's descriptor and gives the grant
// back. Neither the other holders nor the connections that are queued notice. The
// path of a Unix socket stays. Closing again returns what the first Close did.
func (l *Listener) Close() error { return l.close(socketOf{l}) }

// socketOf closes the sockets that a Listener has at the time.
type socketOf struct{ l *Listener }

func (s socketOf) Close() error {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	for _, past := range s.l.past {
		_ = past.Close()
	}
	return s.l.ln.Close()
}

// Addr returns the address that the socket is bound to.
func (l *Listener) Addr() net.Addr {
	ln, _ := l.current()
	return ln.Addr()
}

// Name returns the name that was dialed.
func (l *Listener) Name() string { return l.name }

// Grant returns the id of the grant, as "fdclient list" shows it. Listeners that
// were dialed together have the same.
func (l *Listener) Grant() int64 { return l.link.grant.Load() }

// SyscallConn returns the raw socket, to look at. What is changed there is changed
// for all holders: O_NONBLOCK, the backlog, every socket option.
func (l *Listener) SyscallConn() (syscall.RawConn, error) {
	ln, _ := l.current()
	c, ok := ln.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return c.SyscallConn()
}

func (l *Listener) dialed() (string, bool) { return l.name, !l.closed.Load() }

func (l *Listener) drain() {
	l.mu.Lock()
	l.drainedAt = time.Now()
	l.mu.Unlock()
	l.drained.Store(true)
	l.shut(socketOf{l})
}

func (l *Listener) dup() (*scmrights.FD, error) {
	ln, _ := l.current()
	return dup(ln)
}
