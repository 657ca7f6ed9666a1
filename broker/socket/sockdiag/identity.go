package sockdiag

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

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
			return is, spec.Problemf(err, "the descriptor that was passed is no socket")
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
