// Package socket opens listening sockets by their specs, takes over those that another process has opened, changes and
// repairs them, and closes them.
//
// It may touch the sockets that it owns, and their files. It never accepts on, reads from or shuts down a socket: the
// processes that are handed a duplicate do that. No socket of this package joins the runtime's poller, which would wake
// up for connections that others are meant to accept. It knows nothing of the control protocol, of grants or of
// clients.
package socket

import (
	"errors"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/socket/holders"
	"github.com/fdbroker/fdbroker/broker/socket/sockdiag"
	"github.com/fdbroker/fdbroker/broker/socket/sockfile"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/scmrights"
)

// Socket is one bound socket, which it owns. Its methods may be called concurrently; after Close those that ask the
// kernel return [os.ErrClosed].
//
// As long as a new one was not handed to any process, Abort undoes what opening, adopting or recovering it has changed.
type Socket struct {
	spec    atomic.Pointer[spec.Spec] // its options are never nil
	address string                    // as was really bound
	fd      *scmrights.FD
	cookie  uint64
	file    *sockfile.File // nil without a path of its own
	inode   uint32         // of the socket itself, in sockfs
	v6only  bool           // IPV6_V6ONLY, which never changes
	backlog atomic.Int32

	changing sync.Mutex // held while the socket is changed or repaired; guards health, closed and released
	health   repairState

	closed   bool
	released bool         // Close leaves the path
	adopted  bool         // another program has opened it
	held     bool         // it has holders already
	replaces *replacement // until Commit or Abort
	shared   bool         // the port was, from Commit until EndSharing
}

// repairState is the memory of [Socket.Repair].
type repairState struct {
	queue                int32 // at the last look; -1: never looked
	reusePort, reuseAddr bool  // as they should be
	replaced             bool  // another socket is about to have the path
	retired              bool  // see Retire
}

// A replacement is the change that Open has made to the sockets that a new one replaces.
type replacement struct {
	sharing []*Socket      // which have SO_REUSEPORT for now
	owner   *Socket        // of the file that was moved out of the way; nil: none was
	moved   *sockfile.File // where it is now
}

// Spec returns the spec by which the socket was opened, or that of the last Become.
func (s *Socket) Spec() spec.Spec { return *s.spec.Load() }

func (s *Socket) setSpec(to spec.Spec) {
	to.Options = to.Opts()
	s.spec.Store(&to)
}

func (s *Socket) network() *spec.Network {
	if s.Any() {
		return spec.AnyNetwork()
	}
	return spec.NetworkOf(s.Network())
}

// Adopted reports whether another program has opened the socket: see [Adopt].
func (s *Socket) Adopted() bool { return s.adopted }

// Taken reports whether another process may have the socket, because that has opened it or held it before this broker.
func (s *Socket) Taken() bool { return s.adopted || s.held }

// Any reports whether it need not be a socket: its network is [spec.Any].
func (s *Socket) Any() bool { return s.Network() == spec.Any }

// Network returns the network as the spec has it.
func (s *Socket) Network() string { return s.spec.Load().Network }

// Name returns the name of the spec, which stays the same.
func (s *Socket) Name() string { return s.spec.Load().Name }

// Address returns the address that was really bound: "[::]:9000", "127.0.0.1:9000", "/path" or "@abstract". Port 0 has
// become a number, a host's name an address.
func (s *Socket) Address() string { return s.address }

// Claim returns what s keeps other sockets from.
func (s *Socket) Claim() spec.Claim {
	c := spec.Claim{Network: s.network(), Device: s.Spec().Options.Device}
	if !c.Network.In(spec.Inet) {
		c.Path = s.Address()
		return c
	}
	c.End = endpointOf(s.Address())
	c.End.V6Only = s.v6only
	return c
}

// Packet reports whether the socket receives packets and accepts no connections.
func (s *Socket) Packet() bool { return s.network().In(spec.Packets) }

// FD returns the socket's descriptor, which s goes on owning: the caller must not close it.
func (s *Socket) FD() *scmrights.FD { return s.fd }

// Cookie returns the kernel's number for this socket (SO_COOKIE), which is the same in every process that holds it, and
// is never used again.
func (s *Socket) Cookie() uint64 { return s.cookie }

// File returns which file the socket's path is, and the zero FileID if it has none that is its own.
func (s *Socket) File() sockfile.FileID {
	if s.file == nil {
		return sockfile.FileID{}
	}
	return s.file.ID()
}

// Backlog returns how many connections may wait, plus one: the argument of listen, or somaxconn if that was less. It is
// 0 for a socket of packets. Another holder may have changed it since: see [Socket.Figures].
func (s *Socket) Backlog() int { return int(s.backlog.Load()) }

// Blocking reports whether the socket is without O_NONBLOCK now. All holders share the bit, and any of them may have
// changed it.
func (s *Socket) Blocking() (bool, error) { return sockdiag.Ask(s.fd, isBlocking) }

func isBlocking(fd int) (bool, error) {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	return flags&unix.O_NONBLOCK == 0, os.NewSyscallError("fcntl", err)
}

// SetBlocking sets or clears O_NONBLOCK for all holders.
func (s *Socket) SetBlocking(blocking bool) error {
	return control(s.fd, func(n int) error {
		return os.NewSyscallError("fcntl", unix.SetNonblock(n, !blocking))
	})
}

// Figures asks the kernel for the figures of now. Those of the networks unix and unixpacket can only be read in the
// network namespace in which the socket was opened. A descriptor of the network "any" has none, which is
// [errors.ErrUnsupported].
func (s *Socket) Figures() (sockdiag.Figures, error) { return s.figures(nil) }

// FiguresOf returns the results of Figures for each of sockets. It asks the kernel once for all that are of unix and
// unixpacket, because the kernel looks through all of those to find one.
func FiguresOf(sockets []*Socket) ([]sockdiag.Figures, []error) {
	figures, errs := make([]sockdiag.Figures, len(sockets)), make([]error, len(sockets))
	queued := func(s *Socket) bool { return s.network().In(spec.Listening &^ spec.TCP) }
	var queues map[uint64]sockdiag.Queue
	if len(sockets) > 1 && slices.ContainsFunc(sockets, queued) {
		queues = sockdiag.UnixQueues()
	}
	for i, s := range sockets {
		figures[i], errs[i] = s.figures(queues)
	}
	return figures, errs
}

func (s *Socket) figures(queues map[uint64]sockdiag.Queue) (sockdiag.Figures, error) {
	return sockdiag.Ask(s.fd, func(fd int) (sockdiag.Figures, error) {
		return sockdiag.FiguresOf(s.network(), fd, s.inode, s.cookie, queues)
	})
}

// HeldBy reports whether a process can be seen to have the socket open. It takes longer the more descriptors the
// process has.
func (s *Socket) HeldBy(pid int) bool { return s.inode != 0 && holders.Holds(pid, s.inode) }

// Users returns the processes that can be seen to have these sockets open, at most five of each, without those that keep
// them for the broker. It looks for so long at most. Descriptors that need not be sockets are not looked for.
func Users(sockets []*Socket, limit time.Duration) map[*Socket][]holders.Process {
	var inodes []uint32
	for _, s := range sockets {
		if !s.Any() {
			inodes = append(inodes, s.inode)
		}
	}
	found := holders.Users(inodes, limit)
	users := make(map[*Socket][]holders.Process, len(found))
	for _, s := range sockets {
		if all := found[s.inode]; len(all) > 0 && !s.Any() {
			users[s] = all
		}
	}
	return users
}

// WhoHas returns, in words, which process has the address of s, unless it is the broker. It may take seconds.
func (s *Socket) WhoHas() string {
	switch n := s.network(); {
	case n.In(spec.Inet):
		return holders.OfInet(s.Spec(), endpointOf(s.Address())).Who
	case n.In(spec.Unix):
		return holders.OfUnix(s.Address(), sockfile.IDOf(s.Address())).Who
	}
	return ""
}

// WatchPath adds the file of the socket's path to an inotify instance: see [sockfile.File.Watch]. It returns the watch,
// or false if the socket has no path of its own or inotify cannot watch it.
func (s *Socket) WatchPath(inotify int) (watch int, ok bool) {
	s.changing.Lock()
	defer s.changing.Unlock()
	if s.file == nil {
		return 0, false
	}
	watch, err := s.file.Watch(inotify)
	return watch, err == nil
}

// Release closes the broker's descriptor and leaves the path of a Unix socket to those that hold the socket: workers,
// or the next broker.
func (s *Socket) Release() error {
	s.changing.Lock()
	s.released = true
	s.changing.Unlock()
	return s.Close()
}

// Close closes the broker's descriptor. Other holders of the socket may go on using it. It removes the path of a Unix
// socket if that still leads to this socket. Closing again does nothing.
func (s *Socket) Close() error {
	s.changing.Lock()
	defer s.changing.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	var err error
	if s.file != nil && !s.released {
		// Before the socket is closed: while it is open the inode's number cannot be given to another file.
		err = s.file.Remove()
	}
	return errors.Join(err, s.fd.Close())
}

func control(fd *scmrights.FD, use func(n int) error) error { return sockdiag.Control(fd, use) }
