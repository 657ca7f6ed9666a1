package socket

import (
	"cmp"
	"errors"
	"net/netip"
	"os"
	"time"

	"github.com/fdbroker/fdbroker/broker/socket/sockdiag"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// A retired socket is the old one of a name that has a new one. It receives nothing new, and its holders go on with what
// is queued: see docs/kernel.md, Retired sockets.

// answerTime is how long Retire waits for the workers of a UDP socket to read what is queued, if they cannot answer from
// it afterwards.
const answerTime = 100 * time.Millisecond

// Retire makes s, in place of which by is bound now, receive nothing new, also if its address is more specific. What is
// queued stays, and accepted connections go on. A Unix socket loses its path, if that does not lead to by. On an error
// the kernel goes on to give some clients to s.
func (s *Socket) Retire(by *Socket) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	s.health.retired = true // not to be repaired from now on
	if s.file != nil {
		return s.file.Remove() // unless it leads to by
	}
	if !s.network().In(spec.Inet) {
		return nil
	}
	return control(s.fd, func(fd int) error {
		if s.health.reusePort = false; reusePort(false).set(fd) != nil {
			s.health.reusePort = true
		}
		if s.network().In(spec.TCP) {
			return hide(fd)
		}
		return s.retireUDP(fd, by)
	})
}

// hide binds a socket to an interface that does not exist, so that the kernel finds it for no packet any more.
func hide(fd int) error {
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, sockdiag.RetiredIndex)
	return os.NewSyscallError("setsockopt", err)
}

// retireUDP keeps the workers able to answer from the socket, if that can be done: not from a hidden one. A socket of one
// address is connected to itself. The kernel prefers a newer IPv4 socket to one of all addresses by itself.
func (s *Socket) retireUDP(fd int, by *Socket) error {
	at, next := endpointOf(s.Address()), endpointOf(by.Address())
	switch {
	case !at.Addr().IsUnspecified():
		sa, err := at.Sockaddr()
		if err != nil {
			return err
		}
		return os.NewSyscallError("connect", unix.Connect(fd, sa))
	case next.Addr().Is4():
		return nil
	}
	for deadline := time.Now().Add(answerTime); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if n, err := unix.IoctlGetInt(fd, unix.SIOCINQ); err != nil || n == 0 {
			break
		}
	}
	return hide(fd)
}

// Beside reports whether s is an IP socket whose port old, which it was bound beside, had.
func (s *Socket) Beside(old *Socket) bool {
	return s.network().In(spec.TCP) && old.network().In(spec.TCP) && endpointOf(s.Address()).Port() == endpointOf(old.Address()).Port()
}

// Retired reports whether s was retired.
func (s *Socket) Retired() bool {
	s.changing.Lock()
	defer s.changing.Unlock()
	return s.health.retired
}

// isRetired reports whether a broker has retired a socket.
func isRetired(fd int) bool {
	index, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
	if err == nil && index == sockdiag.RetiredIndex {
		return true
	}
	is, err := unix.Getsockname(fd)
	if err != nil {
		return false
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return false
	}
	return addressOf(is) != "" && addressOf(is) == addressOf(peer)
}

// addressOf returns the address and the port of an IP address.
func addressOf(sa unix.Sockaddr) string {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return string(sa.Addr[:]) + string(rune(sa.Port))
	case *unix.SockaddrInet6:
		return string(sa.Addr[:]) + string(rune(sa.Port))
	}
	return ""
}

// RestoreRetired returns the old socket of the spec with that text, as Restore does with others. It changes nothing: one
// that the broker before had no time to retire, as [Socket.Retired] says then, goes on to get clients until Retire.
func RestoreRetired(text string, fd *scmrights.FD, saved Saved) (*Socket, error) {
	s, err := spec.Parse(text)
	if err != nil {
		return nil, err
	}
	sock := &Socket{fd: fd, released: true}
	sock.setSpec(s)
	var st unix.Stat_t
	err = control(fd, func(n int) (err error) {
		sock.cookie, err = cookieOf(n)
		sock.v6only = isV6Only(n)
		sock.health.retired = isRetired(n)
		if err == nil && saved.Cookie != 0 && sock.cookie != saved.Cookie {
			err = errors.New("it is another socket")
		}
		is, aerr := sockdiag.BoundTo(n)
		sock.address = is
		return cmp.Or(err, aerr, os.NewSyscallError("fstat", unix.Fstat(n, &st)))
	})
	sock.inode = uint32(st.Ino)
	return sock, err
}

// forgetSharing makes the kernel forget that the port of s was shared while s was bound beside the socket that it
// replaces: a process of this user could otherwise join the port with SO_REUSEPORT (docs/kernel.md, SO_REUSEPORT). It
// reports whether that worked.
func (s *Socket) forgetSharing() bool {
	if !s.network().In(spec.TCP) {
		return true // the kernel asks each socket
	}
	at := endpointOf(s.Address())
	for _, other := range []string{"192.0.2.0", "2001:db8::"} { // addresses for documentation, which no machine has
		end := spec.Endpoint{AddrPort: netip.AddrPortFrom(netip.MustParseAddr(other), at.Port()), V6Only: true}
		// Retired sockets of all addresses are on another interface.
		if bindOnce(end, sockopt{name: "freebind", level: unix.SOL_IP, number: unix.IP_FREEBIND, value: 1},
			sockopt{name: "device", level: unix.SOL_SOCKET, number: unix.SO_BINDTOIFINDEX, value: loopbackIndex}) == nil {
			return true
		}
	}
	return bindOnce(at, sockopt{name: "TCP_REPAIR", level: unix.SOL_TCP, number: unix.TCP_REPAIR, value: 1}) == nil
}

const loopbackIndex = 1 // in every network namespace

// bindOnce binds a socket without SO_REUSEPORT to end, and closes it.
func bindOnce(end spec.Endpoint, opts ...sockopt) error {
	n, err := unix.Socket(end.Family(), unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(n)
	return bindWith(n, end, opts...)
}

// listenBeside listens also if a retired socket has the port. The kernel lets two sockets of different interfaces have
// it, so the socket has one that does not exist for a moment.
func (r *repair) listenBeside() error {
	err := unix.Listen(r.fd, r.Backlog())
	if err != unix.EADDRINUSE || !mayLeaveInterface() {
		return err
	}
	was, err := unix.GetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
	if err == nil {
		err = unix.SetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, sockdiag.RetiredIndex-1)
	}
	if err != nil {
		return err
	}
	err = unix.Listen(r.fd, r.Backlog())
	return cmp.Or(unix.SetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, was), err)
}

// mayLeaveInterface reports whether this process may take a socket from an interface, which needs CAP_NET_RAW.
func mayLeaveInterface() bool {
	n, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(n)
	set := func(index int) error { return unix.SetsockoptInt(n, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, index) }
	return cmp.Or(set(loopbackIndex), set(0)) == nil
}
