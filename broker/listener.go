//go:build linux

package broker

import (
	"context"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fdbroker/fdbroker/internal/backoff"
	"golang.org/x/sys/unix"
)

// Listener is a [net.Listener] on a socket that the broker owns and others may accept on
// too. Its methods may be called concurrently.
//
// Losing the broker does not disturb it: it goes on accepting, and reclaims its grant from the next broker.
type Listener struct {
	*handle
	accepted atomic.Bool // any connection
}

// Accept waits for the next connection and returns it. After Close the error is [net.ErrClosed], in the sense of
// [errors.Is]. Once the broker has asked this process to leave, it is [ErrDrained] as well: the socket is closed, the
// grant has ended, queued connections go to other holders, and it is time to finish those that were accepted. The
// package [github.com/fdbroker/fdbroker/broker/graceful] does all that.
//
// If anything was accepted, that error comes a quarter of a second late, because [net/http.Server.Shutdown] drops the
// request of a connection that was accepted and not read yet.
//
// If the broker binds another socket by the name, Accept returns connections of both in turn, until the queue of the old
// one is empty; then it closes that. If another holder has shut the socket
// down, Accept waits a few seconds for the broker to repair it.
func (l *Listener) Accept() (net.Conn, error) {
	l.link.maintain()
	for {
		ln, old, brief := l.next()
		if ln == nil {
			return nil, l.leave()
		}
		c, err := ln.(net.Listener).Accept()
		switch {
		case err == nil:
			if !l.accepted.Load() {
				l.accepted.Store(true)
			}
			return c, nil
		case old && timedOut(err) && readable(ln): // the time passed before it was looked at
		case old && !isExhausted(err):
			l.forget(ln)
		case old:
			return nil, err
		case brief && timedOut(err) && !l.expired():
		case l.drained.Load(): // unless connections are left in the queue of an old socket
		case l.closed.Load():
			return nil, err
		case ln == l.current() && (!errors.Is(err, unix.EINVAL) || !l.repaired(ln)):
			return nil, err
		}
	}
}

// leave returns the error of a listener that was drained.
func (l *Listener) leave() error {
	l.link.maintained.Wait() // the grant ends before Accept returns
	l.linger()
	return &drainedError{"accept " + l.name}
}

// isExhausted reports whether err of an accept passes by itself.
func isExhausted(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM)
}

// lingerTime is how long after a drain Accept returns: time to read from the connections
// that were accepted last, of several round trips because of TLS handshakes.
const lingerTime = 250 * time.Millisecond

// linger waits until lingerTime after the drain, if anything was accepted.
func (l *Listener) linger() {
	if l.accepted.Load() {
		l.mu.Lock()
		since := l.endedAt
		l.mu.Unlock()
		time.Sleep(lingerTime - time.Since(since))
	}
}

// repairTime is how long Accept waits for the repair of a socket that was shut down.
const repairTime = 5 * time.Second

// repaired waits until ln, which was shut down, listens again or is replaced. It has to look
// again and again, because no event tells a holder.
func (l *Listener) repaired(ln netSocket) bool {
	retry := backoff.Backoff{Min: time.Millisecond, Max: 50 * time.Millisecond}
	for deadline := time.Now().Add(repairTime); time.Now().Before(deadline); _ = retry.Wait(context.Background()) {
		listens := 0
		err := control(ln, func(fd int) (err error) {
			listens, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
			return err
		})
		if l.closed.Load() || l.drained.Load() || l.expired() || ln != l.current() || err == nil && listens != 0 {
			return true
		}
	}
	return false
}

// Addr returns the address that the socket is bound to.
func (l *Listener) Addr() net.Addr { return l.current().(net.Listener).Addr() }

// SetDeadline sets the time after which Accept fails with [os.ErrDeadlineExceeded] instead of waiting for a connection.
// The zero time means never. A deadline also holds for the next socket that the broker binds by the name.
func (l *Listener) SetDeadline(t time.Time) error {
	return l.setReadDeadline(t)
}

// listener is what packages look for that know [net.TCPListener] and [net.UnixListener].
type listener interface {
	net.Listener
	syscall.Conn
	SetDeadline(time.Time) error
	File() (*os.File, error)
}

var (
	_ listener = (*Listener)(nil)
	_ listener = (*net.TCPListener)(nil)
	_ listener = (*net.UnixListener)(nil)
)
