package conn

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server/peer"
	"github.com/fdbroker/fdbroker/scmrights"
)

// If the process has run out of descriptors, connections wait in the queue of the control socket. If that lasts, the loop
// gives up a descriptor that it has for this, and answers one connection after the other by means of it: root and the
// broker's user are served with one call, so that they can see what is wrong, and help; others are told.

const (
	queueTime   = time.Second           // that connections wait before they are answered
	oneCallTime = 50 * time.Millisecond // for the call, if nobody else waits
)

// reserve opens the spare descriptor again, if it is closed and there is room.
func (l *Loop) reserve() {
	if l.spare != nil {
		return
	}
	if fd, err := l.queue.eventfd.Dup(); err == nil {
		l.spare = fd
		if !l.paused.IsZero() {
			l.paused = time.Now() // the next one need not wait
		}
	}
}

func (l *Loop) closeSpare() {
	if l.spare != nil {
		_ = l.spare.Close()
		l.spare = nil
	}
}

// acceptReserved answers the connections that wait, as far as there is a descriptor for the next one.
func (l *Loop) acceptReserved(cause error) error {
	for range crowd {
		if l.reserve(); l.spare == nil {
			return l.pause(cause) // a connection that is served has it
		}
		l.closeSpare()
		raw, number, err := scmrights.Accept(l.listener)
		switch {
		case err == nil:
			l.answer(raw, int32(number))
		case err == unix.EAGAIN || err == unix.EINTR:
			l.reserve()
			return nil
		default:
			return l.pause(err)
		}
	}
	l.reserve()
	return l.pauseFor(cause, backoffMin) // the clients that are there have their turn
}

// answer serves one call of a connection, if its user has privilege, and tells others to come back.
func (l *Loop) answer(raw scmrights.Nonblocking, number int32) {
	p, err := peer.Of(raw)
	if err != nil {
		_ = raw.FD.Close()
		return
	}
	c := &Conn{loop: l, raw: raw, number: number, unguarded: !l.guarded, readable: true}
	c.Caller = l.cfg.Handler.Caller(raw, p)
	if !c.Caller.Privileged {
		err := l.cfg.Descriptors.Exhausted()
		l.cfg.Handler.Refused(c, err)
		c.sendError(err)
		c.hangUp(nil)
		return
	}
	c.OneCall = true
	l.count(&c.Caller)
	l.conns[number] = c
	if c.advance(); !c.closed && !c.called && l.othersWait() { // it has been in the queue, and has said nothing
		c.end(l.cfg.Descriptors.Exhausted())
	}
}

// othersWait reports whether connections wait in the queue.
func (l *Loop) othersWait() (wait bool) {
	_ = l.listener.Control(func(fd uintptr) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		wait = err == nil && n > 0
	})
	return wait
}

// finishOneCall ends a connection that is served with one call, once that has been answered.
func (c *Conn) finishOneCall() {
	if c.called && len(c.out) == 0 && c.parked == nil {
		c.close()
	}
}
