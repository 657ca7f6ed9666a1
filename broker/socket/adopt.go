//go:build linux

package socket

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/scmrights"
)

// Adopt takes fd, a bound socket that somebody else has opened, and returns it as
// that of s; the caller must close it. The error is a [*BindError].
//
// Its network must be the one of s and it must listen, where its network does; its
// address is whatever it is bound to. The options of s are applied as far as they
// can be to a socket that is bound, and so are O_NONBLOCK and the backlog, also
// where s leaves them to the default. The option v6only cannot be: it is an error
// where IPv4 would come in all the same. Close leaves a Unix socket's path alone:
// whoever made it removes it.
func Adopt(s Spec, fd *scmrights.FD) (*Socket, error) {
	sock, err := adopt(s, fd, nil)
	if err != nil {
		return nil, newBindError(s, errors.Join(err, fd.Close()))
	}
	sock.adopted = true
	return sock, nil
}

// adopt returns the socket of s, which borrows fd until it succeeds. With held,
// others may be using fd, and O_NONBLOCK stays as they need it; held must say that
// the socket is the right one, before anything of it is changed.
func adopt(s Spec, fd *scmrights.FD, held func(identity, int) error) (*Socket, error) {
	n := networkOf(s.Network)
	if n == nil {
		return nil, fmt.Errorf("there is no network %q", s.Network)
	}
	var is identity
	backlog := 0
	err := control(fd, func(num int) (err error) {
		if is, err = identify(num); err != nil {
			return err
		}
		if err := is.checkFor(n, s); err != nil {
			return err
		}
		if held != nil {
			if err := held(is, num); err != nil {
				return err
			}
		}
		if backlog, err = is.setUp(n, s, num); err != nil || held != nil {
			return err
		}
		return os.NewSyscallError("fcntl", unix.SetNonblock(num, !s.options().Blocking))
	})
	if err != nil {
		return nil, err
	}
	return newSocketOf(s, is.address, fd, backlog, nil)
}

// SpecOf returns a spec for name that describes fd, a bound socket that somebody
// else has opened. It borrows fd and changes nothing. The error is one line that
// names the socket.
func SpecOf(name string, fd *scmrights.FD) (Spec, error) {
	var text string
	err := control(fd, func(num int) error {
		is, err := identify(num)
		if err != nil {
			return err
		}
		text = name + "=" + is.network().name + "://" + is.address
		if n := is.backlog(num); n > 0 && n < somaxconn() {
			text += ",backlog=" + strconv.Itoa(n)
		}
		return nil
	})
	if err != nil {
		return Spec{}, fmt.Errorf("the socket %s: %s", quote(name), reason(err))
	}
	return ParseSpec(text)
}

// anyIPv6 is how an address begins that is all of the machine.
const anyIPv6 = "[::]:"

// An identity is what a socket is, as the kernel tells.
type identity struct {
	family, sotype, protocol int
	v6only                   bool // bound to all addresses, and takes no IPv4
	address                  string
}

// identify returns the identity of a socket that can be a listener's.
func identify(fd int) (is identity, err error) {
	listens := 0
	for _, option := range []struct {
		number int
		value  *int
	}{{unix.SO_DOMAIN, &is.family}, {unix.SO_TYPE, &is.sotype}, {unix.SO_PROTOCOL, &is.protocol}, {unix.SO_ACCEPTCONN, &listens}} {
		if *option.value, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, option.number); err != nil {
			if err == unix.ENOTSOCK {
				return is, &problem{"the descriptor that was passed is no socket", err, nil}
			}
			return is, os.NewSyscallError("getsockopt", err)
		}
	}
	if is.network() == nil {
		return is, fmt.Errorf("a socket of family %d, type %d and protocol %d was passed, which cannot be a listener's: there are %s",
			is.family, is.sotype, is.protocol, networkNames(allNets))
	}
	if is.address, err = boundTo(fd); err != nil {
		return is, err
	}
	if strings.HasPrefix(is.address, anyIPv6) {
		only, err := unix.GetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_V6ONLY)
		if err != nil {
			return is, os.NewSyscallError("getsockopt", err)
		}
		is.v6only = only != 0
	}
	if is.network().in(connNets) && listens == 0 {
		return is, fmt.Errorf("the socket %s that was passed does not listen", is)
	}
	return is, nil
}

// network returns the network of the spec that would open such a socket, or nil.
func (is identity) network() *network {
	for i := range networks {
		n := &networks[i]
		if is.in(n) && (!is.v6only || n.in(only6)) {
			return n
		}
	}
	return nil
}

// in reports whether is is a socket of n.
func (is identity) in(n *network) bool {
	protocol := is.protocol
	if protocol == unix.IPPROTO_MPTCP {
		protocol = unix.IPPROTO_TCP // we open none, but Go's net.Listen does, and it is the same to accept on
	}
	if is.sotype != n.sotype || protocol != n.protocol {
		return false
	}
	switch is.family {
	case unix.AF_UNIX:
		return n.in(unixNets)
	case unix.AF_INET:
		return n.in(inetNets &^ only6)
	case unix.AF_INET6:
		return n.in(inetNets &^ only4)
	}
	return false
}

func (is identity) String() string { return is.network().name + "://" + is.address }

// checkFor returns an error where a socket cannot be the one of s.
func (is identity) checkFor(n *network, s Spec) error {
	if !is.in(n) {
		return fmt.Errorf("the socket that was passed is %s, and the spec's network is %s", is, n.name)
	}
	wants := n.in(only6) || s.options().V6Only
	if wants && !is.v6only && strings.HasPrefix(is.address, anyIPv6) {
		return fmt.Errorf("the socket %s that was passed takes IPv4 as well, and the spec does not want that; BindIPv6Only=ipv6-only is systemd's setting", is)
	}
	return nil
}

// setUp applies what s says, and returns the backlog as it became.
func (is identity) setUp(n *network, s Spec, fd int) (backlog int, err error) {
	if n.in(unixNets) {
		err = is.own(fd, s)
	} else {
		if err = addressOptions(fd, s, is.family == unix.AF_INET6); err == nil {
			err = listenOptions(fd, s)
		}
	}
	if err != nil {
		return 0, err
	}
	return listen(n, s, fd)
}

// own gives the file of a Unix socket the mode and owners that s says, if any.
func (is identity) own(fd int, s Spec) error {
	owner, err := ownerOf(s)
	if err != nil || owner == (fileOwner{nil, -1, -1}) {
		return err
	}
	if strings.HasPrefix(is.address, "@") {
		return fmt.Errorf("the socket %s that was passed has no file, so it cannot have the options mode, user and group", is)
	}
	file, err := openBound(fd, is.address)
	if err != nil {
		return fmt.Errorf("%s: %w", is.address, err)
	}
	defer file.close()
	return owner.apply(file)
}

// backlog returns how many connections may wait at a socket, or 0 where the
// kernel does not tell.
func (is identity) backlog(fd int) int {
	switch n := is.network(); {
	case n.in(tcpNets):
		f, err := tcpFigures(fd)
		if err == nil {
			return int(f.Limit)
		}
	case n.in(connNets):
		cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
		var st unix.Stat_t
		if err != nil || unix.Fstat(fd, &st) != nil {
			return 0
		}
		if _, limit, err := unixQueue(uint32(st.Ino), cookie); err == nil {
			return int(limit)
		}
	}
	return 0
}

// boundTo returns the address of a socket as a spec has it.
func boundTo(fd int) (string, error) {
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
			return "", fmt.Errorf("the socket that was passed is bound to %s, a relative path", quote(sa.Name))
		}
		return sa.Name, nil
	case *unix.SockaddrInet4:
		end = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		ip := netip.AddrFrom16(sa.Addr)
		if sa.ZoneId != 0 {
			ip = ip.WithZone(zoneName(sa.ZoneId))
		}
		end = netip.AddrPortFrom(ip, uint16(sa.Port))
	}
	if end.Port() == 0 {
		return "", errors.New(unbound)
	}
	return end.String(), nil
}
