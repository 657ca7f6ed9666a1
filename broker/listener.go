//go:build linux

package broker

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

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

	mu sync.Mutex
	ln net.Listener // the broker may have another socket by the name one day
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

// Accept waits for the next connection and returns it. After Close the error is
// [net.ErrClosed], in the sense of [errors.Is]. Once the broker has asked to leave
// it is [ErrDrained] and [net.ErrClosed]: the socket is closed and the grant given
// back, what is queued goes to others, and it is time to finish what was accepted:
//
//	err := srv.Serve(ln)
//	srv.Shutdown(ctx)
//
// Where another holder has shut the socket down, Accept waits a few seconds for the
// broker to heal it.
func (l *Listener) Accept() (net.Conn, error) {
	l.link.attend()
	for {
		ln := l.current()
		c, err := ln.Accept()
		if err == nil {
			return c, nil
		}
		switch {
		case l.drained.Load():
			return nil, &drainedError{"accept " + l.name}
		case l.closed.Load():
			return nil, err
		case l.current() != ln:
			if c := lastOf(ln); c != nil {
				return c, nil
			}
		case !errors.Is(err, unix.EINVAL) || !l.healed(ln):
			return nil, err
		}
	}
}

func (l *Listener) current() net.Listener {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ln
}

// How long Accept waits for a socket that was shut down to be healed, and how often
// it looks: no event tells a holder.
const (
	healTime = 5 * time.Second
	healLook = 2 * time.Millisecond
)

// healed waits until ln, which was shut down, listens again or is replaced.
func (l *Listener) healed(ln net.Listener) bool {
	for deadline := time.Now().Add(healTime); time.Now().Before(deadline); time.Sleep(healLook) {
		listens := 0
		err := control(ln, func(fd int) (err error) {
			listens, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
			return err
		})
		if l.closed.Load() || l.current() != ln || err == nil && listens != 0 {
			return true
		}
	}
	return false
}

// lastOf returns a connection that waits at ln, which nobody will accept on any more,
// or closes it and returns nil.
func lastOf(ln net.Listener) net.Conn {
	var c net.Conn
	err := control(ln, func(fd int) error {
		n, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(n), "")
		defer f.Close()
		c, err = net.FileConn(f)
		return err
	})
	if err != nil {
		_ = ln.Close()
	}
	return c
}

// Close makes Accept return, closes this process's descriptor and gives the grant
// back. Neither the other holders nor the connections that are queued notice. The
// path of a Unix socket stays. Closing again returns what the first Close did.
func (l *Listener) Close() error { return l.close(socketOf{l}) }

// socketOf closes the socket that a Listener has at the time.
type socketOf struct{ l *Listener }

func (s socketOf) Close() error { return s.l.current().Close() }

// Addr returns the address that the socket is bound to.
func (l *Listener) Addr() net.Addr { return l.current().Addr() }

// Name returns the name that was dialed.
func (l *Listener) Name() string { return l.name }

// Grant returns the id of the grant, as "fdclient list" shows it. Listeners that
// were dialed together have the same.
func (l *Listener) Grant() int64 { return l.link.grant.Load() }

// SyscallConn returns the raw socket, to look at. What is changed there is changed
// for all holders: O_NONBLOCK, the backlog, every socket option.
func (l *Listener) SyscallConn() (syscall.RawConn, error) {
	c, ok := l.current().(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return c.SyscallConn()
}

func (l *Listener) dialed() (string, bool) { return l.name, !l.closed.Load() }

func (l *Listener) drain() {
	l.drained.Store(true)
	l.shut(socketOf{l})
}

// renew takes s. Where that is another socket than l has, Accept goes on with s, after
// what is queued at the old one.
func (l *Listener) renew(s Socket) {
	ln := l.current()
	if same(ln, s.FD) {
		_ = s.FD.Close()
		return
	}
	next, err := listenerOf(s)
	if err != nil {
		return // it goes on with what it has
	}
	l.mu.Lock()
	l.ln = next
	l.mu.Unlock()
	if l.closed.Load() { // Close may have met either
		_ = next.Close()
		_ = ln.Close()
		return
	}
	if d, ok := ln.(interface{ SetDeadline(time.Time) error }); ok {
		_ = d.SetDeadline(time.Unix(1, 0)) // Accept looks around
	}
}

func (l *Listener) dup() (*scmrights.FD, error) { return dup(l.current()) }
