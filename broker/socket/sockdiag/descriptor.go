package sockdiag

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"unsafe"

	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"golang.org/x/sys/unix"
)

// anyIPv6 begins the address of a socket that has all addresses of the machine.
const anyIPv6 = "[::]:"

// An Identity describes a socket that can be a listener's.
type Identity struct {
	Family, Type, Protocol int

	V6Only  bool   // bound to all addresses, and takes no IPv4
	Address string // as a spec has it
}

// Identify returns the identity of a socket. It is an error if the socket cannot be a listener's: it must be bound and,
// if its network has connections, listen.
func Identify(fd int) (is Identity, err error) {
	var value [4]int
	for i, number := range []int{unix.SO_DOMAIN, unix.SO_TYPE, unix.SO_PROTOCOL, unix.SO_ACCEPTCONN} {
		value[i], err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, number)
		if err == unix.ENOTSOCK {
			return is, spec.Problemf(err, "the descriptor that was passed is not a socket")
		}
		if err != nil {
			return is, os.NewSyscallError("getsockopt", err)
		}
	}
	is.Family, is.Type, is.Protocol = value[0], value[1], value[2]
	if is.Network() == nil {
		return is, fmt.Errorf("a socket of family %d, type %d and protocol %d was passed, which cannot be a listener's: "+
			"there are %s", is.Family, is.Type, is.Protocol, spec.NetworkNames(spec.All))
	}
	if is.Address, err = BoundTo(fd); err != nil {
		return is, err
	}
	if is.TakesAll() {
		only, err := unix.GetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_V6ONLY)
		if err != nil {
			return is, os.NewSyscallError("getsockopt", err)
		}
		is.V6Only = only != 0
	}
	if is.Network().In(spec.Listening) && value[3] == 0 {
		return is, fmt.Errorf("the socket %s that was passed does not listen", is)
	}
	return is, nil
}

// Network returns the network of the spec that would open such a socket, or nil.
func (is Identity) Network() *spec.Network {
	for n := range spec.Networks() {
		if is.In(n) && (!is.V6Only || n.In(spec.Only6)) {
			return n
		}
	}
	return nil
}

// In reports whether is is a socket of n.
func (is Identity) In(n *spec.Network) bool {
	protocol := is.Protocol
	if protocol == unix.IPPROTO_MPTCP {
		protocol = unix.IPPROTO_TCP // Go's net.Listen makes such sockets; accept(2) on them is the same
	}
	if is.Type != n.Type || protocol != n.Protocol {
		return false
	}
	switch is.Family {
	case unix.AF_UNIX:
		return n.In(spec.Unix)
	case unix.AF_INET:
		return n.In(spec.Inet &^ spec.Only6)
	case unix.AF_INET6:
		return n.In(spec.Inet &^ spec.Only4)
	}
	return false
}

// TakesAll reports whether is is bound to all IPv6 addresses.
func (is Identity) TakesAll() bool { return strings.HasPrefix(is.Address, anyIPv6) }

// IsAt reports whether is is bound to exactly end.
func (is Identity) IsAt(end spec.Endpoint) bool {
	at, err := netip.ParseAddrPort(is.Address)
	return err == nil && end.Port() != 0 && at == end.AddrPort && (!end.Addr().IsUnspecified() || is.V6Only == end.V6Only)
}

func (is Identity) String() string { return is.Network().Name + "://" + is.Address }

// Backlog returns how many connections may wait at fd, a socket of that identity, or 0 if the kernel does not tell.
func (is Identity) Backlog(fd int) int {
	cookie, _ := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	var st unix.Stat_t
	_ = unix.Fstat(fd, &st)
	f, err := FiguresOf(is.Network(), fd, uint32(st.Ino), cookie, nil)
	if err != nil || f.Bytes {
		return 0
	}
	return int(f.Limit)
}

// BoundTo returns the address of a socket as a spec has it.
func BoundTo(fd int) (string, error) {
	const unbound = "the socket that was passed has no address"
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return "", os.NewSyscallError("getsockname", err)
	}
	var end netip.AddrPort
	switch sa := sa.(type) {
	case *unix.SockaddrUnix:
		switch {
		case sa.Name == "":
			return "", errors.New(unbound)
		case sa.Name[0] != '/' && sa.Name[0] != '@':
			return "", fmt.Errorf("the socket that was passed is bound to %s, a relative path", spec.Quote(sa.Name))
		}
		return sa.Name, nil
	case *unix.SockaddrInet4:
		end = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		ip := netip.AddrFrom16(sa.Addr)
		if sa.ZoneId != 0 {
			ip = ip.WithZone(spec.ZoneName(sa.ZoneId))
		}
		end = netip.AddrPortFrom(ip, uint16(sa.Port))
	}
	if end.Port() == 0 {
		return "", errors.New(unbound)
	}
	return end.String(), nil
}

// Figures are the kernel's counts for one socket (docs/kernel.md, Queue and drops).
type Figures struct {
	// Queue is how many connections wait to be accepted, or how many bytes of packets to be received. Bytes of UDP
	// include the kernel's own overhead; of unixgram it tells only the size of the next packet.
	Queue uint32
	// Limit is where the kernel begins to refuse or drop, in the unit of Queue: one connection more may wait. 0: there
	// is none, or the kernel does not tell (unixgram, and a TCP socket that does not listen now).
	Limit uint32
	// Drops is how many connection attempts or packets were dropped because the queue was full, since the socket was
	// made. A client that tries again is counted again. The count has 32 bits and wraps.
	Drops      uint64
	DropsKnown bool // Drops is counted: not for Unix sockets
	Bytes      bool // Queue and Limit count bytes, not connections
}

// FiguresOf returns the figures of fd, a socket of n with that inode and cookie. Those of a Unix socket that listens
// are taken from queues, if they are there. The error is [errors.ErrUnsupported] for a network without any.
func FiguresOf(n *spec.Network, fd int, inode uint32, cookie uint64, queues map[uint64]Queue) (Figures, error) {
	switch {
	case n.In(spec.TCP):
		return tcpFigures(fd)
	case n.In(spec.UDP):
		mem, err := memInfo(fd)
		f := Figures{Queue: mem.received, Limit: mem.receiveBuffer, Drops: uint64(mem.drops), DropsKnown: true, Bytes: true}
		return f, err
	case n.In(spec.Listening):
		q, known := queues[cookie]
		var err error
		if !known {
			q, err = unixQueue(inode, cookie)
		}
		return Figures{Queue: q.Waiting, Limit: q.Limit}, err
	case n.In(spec.Unix):
		// The memory of packets is counted for the sender, so SO_MEMINFO has nothing, and unix_diag tells no more than
		// this.
		next, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
		return Figures{Queue: uint32(next), Bytes: true}, os.NewSyscallError("ioctl", err)
	}
	return Figures{}, errors.ErrUnsupported
}

func tcpFigures(fd int) (Figures, error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return Figures{}, os.NewSyscallError("getsockopt", err)
	}
	mem, err := memInfo(fd)
	f := Figures{Drops: uint64(mem.drops), DropsKnown: true}
	if info.State == Listen { // otherwise the fields mean something else
		f.Queue, f.Limit = info.Unacked, info.Sacked
	}
	return f, err
}

// sockMemInfo is the result of SO_MEMINFO: the SK_MEMINFO_* of linux/sock_diag.h.
type sockMemInfo struct {
	received      uint32
	receiveBuffer uint32
	_             [6]uint32
	drops         uint32
}

// memInfo returns SO_MEMINFO (≥ 4.12), for which x/sys has no function.
func memInfo(fd int) (mem sockMemInfo, err error) {
	size := uint32(unsafe.Sizeof(mem))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&mem)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return mem, os.NewSyscallError("getsockopt", errno)
	}
	return mem, nil
}
