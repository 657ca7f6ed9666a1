//go:build linux

package broker

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// Listener is a [net.Listener] on a socket that the broker owns and others may
// accept on too. Its methods may be called concurrently.
type Listener struct {
	ln   net.Listener
	name string
	end
}

// newListener takes s and makes a Listener of it, which uses l.
func newListener(l *link, s Socket) (*Listener, error) {
	if isPacket(s.Network) {
		_ = s.FD.Close()
		return nil, errPacket
	}
	var ln net.Listener
	err := s.file(func(f *os.File) (err error) {
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
	return &Listener{ln: ln, name: s.Name, end: end{link: l}}, nil
}

// end is how the use of a link by one socket ends: once.
type end struct {
	link *link
	once sync.Once
	err  error
}

// close closes c, the socket that uses the link, and then gives the link back: so
// whoever gets the place next does not find two holders. Closing again returns
// what the first close did.
func (e *end) close(c io.Closer) error {
	e.once.Do(func() {
		e.err = c.Close()
		e.link.release()
	})
	return e.err
}

// Accept waits for the next connection and returns it. After Close the error is
// [net.ErrClosed], in the sense of [errors.Is].
func (l *Listener) Accept() (net.Conn, error) { return l.ln.Accept() }

// Close makes Accept return, closes this process's descriptor and gives the grant
// back. Neither the other holders nor the connections that are queued notice. The
// path of a Unix socket stays. Closing again returns what the first Close did.
func (l *Listener) Close() error { return l.close(l.ln) }

// Addr returns the address that the socket is bound to.
func (l *Listener) Addr() net.Addr { return l.ln.Addr() }

// Name returns the name that was dialed.
func (l *Listener) Name() string { return l.name }

// Grant returns the id of the grant, as "fdclient list" shows it. Listeners that
// were dialed together have the same.
func (l *Listener) Grant() int64 { return l.link.grant }

// SyscallConn returns the raw socket, to look at. What is changed there is changed
// for all holders: O_NONBLOCK, the backlog, every socket option.
func (l *Listener) SyscallConn() (syscall.RawConn, error) {
	c, ok := l.ln.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return c.SyscallConn()
}
