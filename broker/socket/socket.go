//go:build linux

package socket

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/scmrights"
)

// Socket is one bound socket, which it owns. Its methods may be called
// concurrently; after Close those that ask the kernel return [os.ErrClosed].
type Socket struct {
	spec    atomic.Pointer[Spec] // its options are never nil
	address string               // as was really bound
	fd      *scmrights.FD
	cookie  uint64
	file    *socketFile // nil without a path
	inode   uint32      // of the socket itself, in sockfs
	backlog atomic.Int32

	changing sync.Mutex // held by who changes the socket, or repairs it; guards file, health and closed
	health   repairState

	// Token is for the owner to know the socket by, and to guard; nothing here looks at it.
	Token uint32

	closed  bool
	adopted bool // somebody else has opened it
}

// Spec returns what the socket was opened by, or has become.
func (s *Socket) Spec() Spec { return *s.spec.Load() }

// setSpec makes spec what s was opened by.
func (s *Socket) setSpec(spec Spec) {
	spec.Options = spec.options()
	s.spec.Store(&spec)
}

// Adopted reports whether the socket came from [Adopt].
func (s *Socket) Adopted() bool { return s.adopted }

// Network returns the network as the spec has it.
func (s *Socket) Network() string { return s.Spec().Network }

// Name returns the name of the spec, which stays the same.
func (s *Socket) Name() string { return s.spec.Load().Name }

// Address returns what was really bound: "[::]:9000", "127.0.0.1:9000", "/path"
// or "@abstract". Port 0 has become a number, a host's name an address.
func (s *Socket) Address() string { return s.address }

// Packet reports whether the socket receives packets and accepts no connections.
func (s *Socket) Packet() bool { return s.network().in(udpNets | unixgramNet) }

// FD returns the socket's descriptor, which s goes on owning: the caller must
// not close it.
func (s *Socket) FD() *scmrights.FD { return s.fd }

// Cookie returns the kernel's number for this socket (SO_COOKIE), which is the
// same in every process that holds it, and is never used again.
func (s *Socket) Cookie() uint64 { return s.cookie }

// Backlog returns how many connections may wait, plus one: what was asked of
// listen, or somaxconn where that was less. It is 0 for a socket of packets.
// Another holder may have changed it since: see [Socket.Figures].
func (s *Socket) Backlog() int { return int(s.backlog.Load()) }

// Blocking reports whether the socket is without O_NONBLOCK now. The bit is
// shared by all holders, and any of them may have changed it.
func (s *Socket) Blocking() (bool, error) {
	flags := 0
	err := control(s.fd, func(n int) (err error) {
		flags, err = unix.FcntlInt(uintptr(n), unix.F_GETFL, 0)
		return os.NewSyscallError("fcntl", err)
	})
	return flags&unix.O_NONBLOCK == 0, err
}

// SetBlocking sets or clears O_NONBLOCK for all holders.
func (s *Socket) SetBlocking(blocking bool) error {
	return control(s.fd, func(n int) error {
		return os.NewSyscallError("fcntl", unix.SetNonblock(n, !blocking))
	})
}

// Close closes the broker's descriptor. Whoever else holds the socket may go on
// using it. The path of a Unix socket is removed if it still leads to this
// socket. Closing again does nothing.
func (s *Socket) Close() error {
	s.changing.Lock()
	defer s.changing.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	var err error
	if s.file != nil {
		// Before the socket is closed: while it is open the inode's number cannot
		// be given to another file.
		err = s.file.remove()
		s.file.dropSpare()
	}
	return errors.Join(err, s.fd.Close())
}

// control calls use with fd's number, and returns its error.
func control(fd *scmrights.FD, use func(n int) error) error {
	var uerr error
	if err := fd.Control(func(n uintptr) { uerr = use(int(n)) }); err != nil {
		return err
	}
	return uerr
}
