//go:build linux

package broker

import (
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// netSocket is a socket of the net package: a [net.Listener], or a [net.PacketConn].
type netSocket interface {
	io.Closer
	syscall.Conn
	SetDeadline(time.Time) error
}

// handle is the common part of a Listener and a PacketConn: the socket that the broker handed
// out by a name and, until their queues are empty, those that it handed out before.
type handle struct {
	name    string
	packet  bool // it receives datagrams
	link    *link
	closed  atomic.Bool
	drained atomic.Bool

	mu          sync.Mutex
	socket      netSocket
	old         []netSocket
	drainedAt   time.Time
	closeErr    error
	read, write time.Time // deadlines of a PacketConn, for the next socket
}

var (
	errStream = errors.New("it accepts connections: use Dial")
	errPacket = errors.New("it receives datagrams: use DialPacket")
)

// openSocket takes s and returns it as a socket of the net package. That duplicates the descriptor, and does not touch
// O_NONBLOCK if that is set.
func openSocket(s Socket, packet bool) (netSocket, error) {
	switch isPacket := slices.Contains([]string{"udp", "udp4", "udp6", "unixgram"}, s.Network); {
	case isPacket && !packet:
		_ = s.FD.Close()
		return nil, errPacket
	case packet && !isPacket:
		_ = s.FD.Close()
		return nil, errStream
	}
	f, err := s.FD.File(s.Name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var c io.Closer
	if packet {
		c, err = net.FilePacketConn(f)
	} else {
		c, err = net.FileListener(f)
	}
	if err != nil {
		return nil, err
	}
	if u, ok := c.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false) // the path is the broker's
	}
	return c.(netSocket), nil
}

// setDeadline sets the deadline of accepting, or reading.
func setDeadline(s netSocket, t time.Time) {
	if pc, ok := s.(net.PacketConn); ok {
		_ = pc.SetReadDeadline(t)
	} else {
		_ = s.SetDeadline(t)
	}
}

// next returns the socket to receive from: an old one first, and that only for a moment.
func (h *handle) next() (socket netSocket, old bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.old) == 0 {
		return h.socket, false
	}
	// Some time, because with none the net package does not look at all.
	setDeadline(h.old[0], time.Now().Add(5*time.Millisecond))
	return h.old[0], true
}

func (h *handle) current() netSocket {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.socket
}

// forget closes an old socket.
func (h *handle) forget(old netSocket) {
	_ = old.Close()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.old = slices.DeleteFunc(h.old, func(c netSocket) bool { return c == old })
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
	if h.closed.Load() { // Close may not see the new one
		_ = next.Close()
		return
	}
	if pc, ok := next.(net.PacketConn); ok {
		_, _ = pc.SetReadDeadline(h.read), pc.SetWriteDeadline(h.write)
	}
	h.socket, h.old = next, append(h.old, socket)
	setDeadline(socket, time.Unix(1, 0)) // makes a blocked call return
}

// Name returns the name that was dialed.
func (h *handle) Name() string { return h.name }

// Grant returns the id of the grant, as "fdclient list" shows it. Sockets that were dialed
// together have the same grant.
func (h *handle) Grant() int64 { return h.link.grant.Load() }

// SyscallConn returns the raw socket, to look at. A change is one for all holders:
// O_NONBLOCK, the backlog, every socket option.
func (h *handle) SyscallConn() (syscall.RawConn, error) { return h.current().SyscallConn() }

// Close makes Accept or ReadFrom return, closes this process's descriptors and ends the
// grant. Neither the other holders nor queued connections notice. The path of a Unix socket
// stays. Closing again returns what the first Close did.
func (h *handle) Close() error {
	h.shut() // the socket first, so the holder that gets the place never finds two
	h.link.release(h)
	return h.closeErr
}

func (h *handle) shut() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed.Swap(true) {
		return
	}
	for _, old := range h.old {
		_ = old.Close()
	}
	h.closeErr = h.socket.Close()
}

// drain closes the socket because the broker asks for it.
func (h *handle) drain() {
	h.mu.Lock()
	h.drainedAt = time.Now()
	h.mu.Unlock()
	h.drained.Store(true)
	h.shut()
}

// dup returns a duplicate of the socket, which the caller must close.
func (h *handle) dup() (d *scmrights.FD, err error) {
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
