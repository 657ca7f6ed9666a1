//go:build linux

package broker

import (
	"errors"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Accept waits for the next connection and returns it. After Close the error is
// [net.ErrClosed], in the sense of [errors.Is]. Once the broker has asked to leave
// it is [ErrDrained] and [net.ErrClosed]: the socket is closed and the grant given
// back, what is queued goes to others, and it is time to finish what was accepted:
//
//	err := srv.Serve(ln)
//	srv.Shutdown(ctx)
//
// That error comes a quarter of a second late where anything was accepted: Shutdown drops
// the request of a connection that has been accepted, and not read yet.
//
// Where the broker has another socket by the name one day, Accept returns what is queued
// at the old one, closes that and goes on with the new one. Where another holder has shut
// the socket down, it waits a few seconds for the broker to heal it.
func (l *Listener) Accept() (net.Conn, error) {
	l.link.attend()
	for {
		ln, past := l.current()
		if past != nil {
			c, err := acceptNow(past)
			if err == nil || exhausted(err) {
				return c, err
			}
			l.forget(past)
			continue
		}
		c, err := ln.Accept()
		if err == nil {
			if !l.accepted.Load() {
				l.accepted.Store(true)
			}
			return c, nil
		}
		switch {
		case l.drained.Load():
			l.settle()
			return nil, &drainedError{"accept " + l.name}
		case l.closed.Load():
			return nil, err
		case l.uses(ln) && (!errors.Is(err, unix.EINVAL) || !l.healed(ln)):
			return nil, err
		}
	}
}

// settleTime is how long a listener that was drained lets what was accepted last be
// read before Accept says so: several round trips, for a TLS handshake.
const settleTime = 250 * time.Millisecond

// settle waits until settleTime after the drain, where anything was accepted.
func (l *Listener) settle() {
	if l.accepted.Load() {
		l.mu.Lock()
		since := l.drainedAt
		l.mu.Unlock()
		time.Sleep(settleTime - time.Since(since))
	}
}

// exhausted reports whether err of an accept passes by itself.
func exhausted(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM)
}

// How long Accept waits for a socket that was shut down to be healed, and how often
// it looks: no event tells a holder.
const (
	healTime = 5 * time.Second
	healMin  = time.Millisecond
	healMax  = 50 * time.Millisecond
)

// healed waits until ln, which was shut down, listens again or is replaced.
func (l *Listener) healed(ln net.Listener) bool {
	deadline := time.Now().Add(healTime)
	for wait := healMin; time.Now().Before(deadline); wait = min(2*wait, healMax) {
		listens := 0
		err := control(ln, func(fd int) (err error) {
			listens, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
			return err
		})
		if l.closed.Load() || !l.uses(ln) || err == nil && listens != 0 {
			return true
		}
		time.Sleep(wait)
	}
	return false
}
