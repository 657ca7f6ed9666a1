//go:build linux

package broker

import (
	"errors"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// oldTime is how long after the end old sockets are still received from, should their queues not become empty.
const oldTime = 2 * time.Second

// oldWait is how long an old socket, or the other one in its turn, is waited for. It is not 0, because then the net package
// does not look at all.
const oldWait = 5 * time.Millisecond

// next returns the socket to receive from. As long as there are old ones, they take turns with the other one, so that
// clients of an old address cannot keep those of the new one waiting, and receiving is brief: it times out before the
// deadline. next returns nil if nothing is received any more.
func (h *handle) next() (socket netSocket, old, brief bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended.Load() && time.Since(h.endedAt) > oldTime {
		h.closeOld()
	}
	switch {
	case len(h.old) > 0:
		wait := time.Now().Add(oldWait)
		if h.turn = !h.turn; h.turn || h.ended.Load() || !readable(h.socket) {
			setDeadline(h.old[0], wait)
			return h.old[0], true, true
		}
		if h.read.IsZero() || wait.Before(h.read) {
			setDeadline(h.socket, wait)
		}
		h.restore = true
		return h.socket, false, true
	case h.ended.Load():
		return nil, false, false
	case h.restore:
		h.restore = false
		setDeadline(h.socket, h.read)
	}
	return h.socket, false, false
}

// readable reports whether receiving from s would succeed now.
func readable(s netSocket) (is bool) {
	_ = control(s, func(fd int) error {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		is = n > 0
		return err
	})
	return is
}

// setReadDeadline sets the deadline of receiving.
func (h *handle) setReadDeadline(t time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.read = t
	if len(h.old) > 0 && !h.closed.Load() {
		h.restore = true
		return nil // next sets it
	}
	return trySetDeadline(h.socket, t)
}

// expired reports whether the deadline of receiving has passed.
func (h *handle) expired() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.read.IsZero() && time.Now().After(h.read)
}

// timedOut reports whether err is that of a deadline.
func timedOut(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// forget closes an old socket.
func (h *handle) forget(old netSocket) {
	_ = old.Close()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.old = slices.DeleteFunc(h.old, func(c netSocket) bool { return c == old })
}

// closeOld closes the old sockets. The caller holds h.mu.
func (h *handle) closeOld() {
	for _, old := range h.old {
		_ = old.Close()
	}
	h.old = nil
}

// renew takes the socket that the broker hands out by the name now. If it is another socket than h has, h goes on with
// it once the queue of its own is empty.
func (h *handle) renew(s Socket) {
	socket := h.current()
	if same(socket, s.FD) {
		_ = s.FD.Close()
		return
	}
	next, err := openSocket(s, h.packet)
	if err != nil {
		return // it goes on with what it has
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed.Load() || h.ended.Load() { // Close may not see the new one
		_ = next.Close()
		return
	}
	setDeadline(next, h.read)
	setWriteDeadline(next, h.write)
	h.socket, h.old = next, append(h.old, socket)
	setDeadline(socket, longAgo) // makes a blocked call return
}

// same reports whether fd is the socket of c.
func same(c syscall.Conn, fd *scmrights.FD) bool {
	var is, was uint64
	err := control(c, func(n int) (err error) {
		was, err = unix.GetsockoptUint64(n, unix.SOL_SOCKET, unix.SO_COOKIE)
		return err
	})
	var ferr error
	cerr := fd.Control(func(n uintptr) { is, ferr = unix.GetsockoptUint64(int(n), unix.SOL_SOCKET, unix.SO_COOKIE) })
	return errors.Join(err, ferr, cerr) == nil && is == was
}
