//go:build linux

package broker

import (
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// netSocket is a socket of the net package.
type netSocket interface {
	comparable
	io.Closer
	syscall.Conn
}

// handle is the common part of a Listener and a PacketConn: the socket that the broker handed
// out by a name and, until their queues are empty, those that it handed out before.
type handle[C netSocket] struct {
	name     string
	link     *link
	open     func(Socket) (C, error)  // takes the Socket
	deadline func(C, time.Time) error // of accepting, or reading
	replaced func(next C)             // called with the lock held; nil: nothing to do
	leaving  sync.Once
	closing  sync.Once
	closeErr error
	closed   atomic.Bool
	drained  atomic.Bool

	mu        sync.Mutex
	socket    C
	old       []C
	drainedAt time.Time
}

// isPacket reports whether a network has datagram sockets.
func isPacket(network string) bool {
	return slices.Contains([]string{"udp", "udp4", "udp6", "unixgram"}, network)
}

// openSocket takes s and returns it as the socket that from makes of a file. The net package
// duplicates the descriptor, and does not touch O_NONBLOCK if that is set.
func openSocket[C netSocket](s Socket, from func(*os.File) (io.Closer, error)) (c C, err error) {
	f, err := s.FD.File(s.Name)
	if err != nil {
		return c, err
	}
	made, err := from(f)
	if err = errors.Join(err, f.Close()); err == nil {
		return made.(C), nil
	}
	if made != nil {
		_ = made.Close()
	}
	return c, err
}

// next returns the socket to receive from: an old one first, and that only for a moment.
func (h *handle[C]) next() (socket C, old bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.old) == 0 {
		return h.socket, false
	}
	// Some time, because with none the net package does not look at all.
	_ = h.deadline(h.old[0], time.Now().Add(5*time.Millisecond))
	return h.old[0], true
}

func (h *handle[C]) current() C {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.socket
}

// forget closes an old socket.
func (h *handle[C]) forget(old C) {
	_ = old.Close()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.old = slices.DeleteFunc(h.old, func(c C) bool { return c == old })
}

// renew implements member: if s is another socket than h has, h goes on with s once the queue of its own is empty.
func (h *handle[C]) renew(s Socket) {
	socket := h.current()
	if same(socket, s.FD) {
		_ = s.FD.Close()
		return
	}
	next, err := h.open(s)
	if err != nil {
		return // it goes on with what it has
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed.Load() { // Close may not see the new one
		_ = next.Close()
		return
	}
	if h.replaced != nil {
		h.replaced(next)
	}
	h.socket, h.old = next, append(h.old, socket)
	_ = h.deadline(socket, time.Unix(1, 0)) // makes a blocked call return
}

// Name returns the name that was dialed.
func (h *handle[C]) Name() string { return h.name }

// Grant returns the id of the grant, as "fdclient list" shows it. Sockets that were dialed
// together have the same grant.
func (h *handle[C]) Grant() int64 { return h.link.grant.Load() }

// SyscallConn returns the raw socket, to look at. A change is one for all holders:
// O_NONBLOCK, the backlog, every socket option.
func (h *handle[C]) SyscallConn() (syscall.RawConn, error) { return h.current().SyscallConn() }

// Close makes Accept or ReadFrom return, closes this process's descriptors and ends the
// grant. Neither the other holders nor queued connections notice. The path of a Unix socket
// stays. Closing again returns what the first Close did.
func (h *handle[C]) Close() error {
	h.leaving.Do(func() { // the sockets first, so the holder that gets the place never finds two
		h.shut()
		h.link.release()
	})
	return h.closeErr
}

func (h *handle[C]) shut() {
	h.closing.Do(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.closed.Store(true)
		for _, old := range h.old {
			_ = old.Close()
		}
		h.closeErr = h.socket.Close()
	})
}

// drain implements member.
func (h *handle[C]) drain() {
	h.mu.Lock()
	h.drainedAt = time.Now()
	h.mu.Unlock()
	h.drained.Store(true)
	h.shut()
}

// dialed implements member.
func (h *handle[C]) dialed() (string, bool) { return h.name, !h.closed.Load() }

// dup implements member.
func (h *handle[C]) dup() (d *scmrights.FD, err error) {
	err = control(h.current(), func(fd int) error {
		n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		d = scmrights.NewFD(n)
		return os.NewSyscallError("fcntl", err)
	})
	return d, err
}

// control calls use with the descriptor of c.
func control(c syscall.Conn, use func(fd int) error) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var uerr error
	err = rc.Control(func(fd uintptr) { uerr = use(int(fd)) })
	return errors.Join(err, uerr)
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
