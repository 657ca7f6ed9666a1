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
	ended   atomic.Bool // nothing is received any more, except from old sockets: drained, or CloseRead
	drained atomic.Bool // the broker has asked for it

	mu          sync.Mutex
	socket      netSocket
	old         []netSocket
	turn        bool // of an old socket, if there is one
	restore     bool // the socket's deadline is not read
	endedAt     time.Time
	closeErr    error
	read, write time.Time // deadlines, for the next socket; that of Accept is read
}

// longAgo is a deadline that makes blocked calls return.
var longAgo = time.Unix(1, 0)

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
	return openDuplicate(s.FD, s.Name, packet)
}

// openDuplicate is openSocket of a descriptor whose kind is known.
func openDuplicate(d *scmrights.FD, name string, packet bool) (netSocket, error) {
	f, err := d.File(name)
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
func setDeadline(s netSocket, t time.Time) { _ = trySetDeadline(s, t) }

func trySetDeadline(s netSocket, t time.Time) error {
	if pc, ok := s.(net.PacketConn); ok {
		return pc.SetReadDeadline(t)
	}
	return s.SetDeadline(t)
}

// setWriteDeadline sets the deadline of writing. A listener has none.
func setWriteDeadline(s netSocket, t time.Time) {
	if pc, ok := s.(net.PacketConn); ok {
		_ = pc.SetWriteDeadline(t)
	}
}

func (h *handle) current() netSocket {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.socket
}

// use calls f with the current socket. It calls f again if h has closed that socket meanwhile and continues with another.
func (h *handle) use(f func(netSocket) error) error {
	for {
		s := h.current()
		if err := f(s); !errors.Is(err, net.ErrClosed) || s == h.current() {
			return err
		}
	}
}

// Name returns the name that was dialed.
func (h *handle) Name() string { return h.name }

// Grant returns the id of the grant, as "fdclient list" shows it. Sockets that were dialed
// together have the same grant.
func (h *handle) Grant() int64 { return h.link.grant.Load() }

// File returns a duplicate of the socket's descriptor, which the caller must close. Closing it does not affect the
// Listener or PacketConn, and closing that does not affect the File. Unlike the net package's, this File leaves
// O_NONBLOCK as it is, also after [os.File.Fd] or in [os/exec.Cmd.ExtraFiles].
//
// The File holds the socket without a grant: nobody asks its user to leave, and it stays with this socket if the broker
// binds another one by the name.
func (h *handle) File() (*os.File, error) {
	d, err := h.dup()
	if err != nil {
		return nil, err
	}
	return d.File(h.name)
}

// Close makes Accept and reads return, closes this process's descriptors and ends the grant. Neither the other holders
// nor queued connections notice. The path of a Unix socket stays. Closing again returns what the first Close did.
func (h *handle) Close() error {
	h.shut() // the socket first, so the holder that gets the place never finds two
	h.link.release(h)
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.closeErr
}

func (h *handle) shut() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed.Swap(true) {
		return
	}
	h.closeOld()
	if h.packet || !h.ended.Load() {
		h.closeErr = h.socket.Close()
	}
}

// drain ends receiving because the broker asks for it.
func (h *handle) drain() { h.end(true) }

// end ends receiving. A listener's socket is closed. A datagram socket is replaced by a duplicate to write to: closing the
// socket ends all reads from it, also those of a program that has it by NetConn.
func (h *handle) end(drained bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed.Load() || h.ended.Load() {
		return
	}
	h.endedAt = time.Now()
	h.drained.Store(drained)
	h.ended.Store(true)
	if !h.packet {
		h.closeErr = h.socket.Close()
		return
	}
	setDeadline(h.socket, longAgo)
	if writer, err := duplicate(h.socket, h.name); err == nil { // else out of descriptors, and it is written to as it is
		setWriteDeadline(writer, h.write)
		setDeadline(writer, longAgo)
		_ = h.socket.Close()
		h.socket = writer
	}
}

// duplicate returns a duplicate of a datagram socket.
func duplicate(s netSocket, name string) (netSocket, error) {
	d, err := dup(s)
	if err != nil {
		return nil, err
	}
	return openDuplicate(d, name, true)
}

// dup returns a duplicate of the socket, which the caller must close.
func (h *handle) dup() (d *scmrights.FD, err error) {
	err = h.use(func(s netSocket) (err error) {
		d, err = dup(s)
		return err
	})
	return d, err
}

func dup(s netSocket) (d *scmrights.FD, err error) {
	err = control(s, func(fd int) error {
		n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err == nil {
			d = scmrights.NewFD(n)
		}
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
