//go:build linux

package broker

import (
	"errors"
	"slices"
	"syscall"
	"time"

	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// oldTime is how long after the end old sockets are still received from, should their queues not become empty.
const oldTime = 2 * time.Second

// next returns the socket to receive from: an old one first, and that only for a moment. It returns nil if there is none,
// because nothing is received any more.
func (h *handle) next() (socket netSocket, old bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended.Load() && time.Since(h.endedAt) > oldTime {
		h.closeOld()
	}
	switch {
	case len(h.old) > 0:
		// Some time, because with none the net package does not look at all.
		setDeadline(h.old[0], time.Now().Add(5*time.Millisecond))
		return h.old[0], true
	case h.ended.Load():
		return nil, false
	}
	return h.socket, false
}

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
