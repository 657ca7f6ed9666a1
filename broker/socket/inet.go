//go:build linux

package socket

import (
	"errors"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/scmrights"
)

// portTries is how often a port is looked for that is still free once it is known.
const portTries = 16

// openInet opens a socket of an IP network.
func openInet(n *network, s Spec) (*Socket, error) {
	ends, err := endpoints(n, s)
	if err != nil {
		return nil, err
	}
	for i, end := range ends {
		sock, err := openEndpoint(n, s, end)
		if err == nil {
			return sock, nil
		}
		if i == len(ends)-1 || !lacksIPv6(err) {
			return nil, err
		}
	}
	return nil, unix.EADDRNOTAVAIL // there is always an endpoint
}

// lacksIPv6 reports whether err is what a kernel without IPv6 says to [::].
func lacksIPv6(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)
}

// openEndpoint binds end. Port 0 is bound twice, once to learn a number and then
// by that number: a socket that was bound to 0 loses its port when a worker shuts
// it down (KERNEL §1).
func openEndpoint(n *network, s Spec, end endpoint) (*Socket, error) {
	if end.Port() != 0 {
		return bindInet(n, s, end)
	}
	for range portTries {
		port, err := freePort(n, s, end)
		if err != nil {
			return nil, explainInet(n, s, end, err)
		}
		end.AddrPort = netip.AddrPortFrom(end.Addr(), port)
		sock, err := bindInet(n, s, end)
		if !errors.Is(err, unix.EADDRINUSE) {
			return sock, err
		}
	}
	return nil, &problem{"each free port was taken by somebody else at once; try again", unix.EADDRINUSE, nil}
}

// freePort returns a port that is free for end just now. It asks for one without
// SO_REUSEADDR, which would also offer ports that only look free.
func freePort(n *network, s Spec, end endpoint) (port uint16, err error) {
	fd, err := newSocket(n, s, end.family())
	if err != nil {
		return 0, err
	}
	defer fd.Close()
	err = control(fd, func(fd int) error {
		if err := bindOptions(fd, s, end); err != nil {
			return err
		}
		if err := end.bind(fd); err != nil {
			return err
		}
		sa, err := unix.Getsockname(fd)
		switch sa := sa.(type) {
		case *unix.SockaddrInet4:
			port = uint16(sa.Port)
		case *unix.SockaddrInet6:
			port = uint16(sa.Port)
		}
		return os.NewSyscallError("getsockname", err)
	})
	return port, err
}

// bindInet opens a socket at end, whose port is not 0.
func bindInet(n *network, s Spec, end endpoint) (*Socket, error) {
	fd, err := newSocket(n, s, end.family())
	if err != nil {
		return nil, explainInet(n, s, end, err)
	}
	backlog, err := setUpInet(n, s, end, fd)
	if err != nil {
		// Closed first: the search for the holder of the address must not find us.
		_ = fd.Close()
		return nil, explainInet(n, s, end, err)
	}
	return newSocketOf(s, end.String(), fd, backlog, nil)
}

func setUpInet(n *network, s Spec, end endpoint, fd *scmrights.FD) (backlog int, err error) {
	err = control(fd, func(fd int) error {
		if n.in(tcpNets) {
			if err := setFlag(fd, "SO_REUSEADDR", unix.SOL_SOCKET, unix.SO_REUSEADDR); err != nil {
				return err
			}
		}
		if n.beside {
			if err := setFlag(fd, "SO_REUSEPORT", unix.SOL_SOCKET, unix.SO_REUSEPORT); err != nil {
				return err
			}
		}
		if err := bindOptions(fd, s, end); err != nil {
			return err
		}
		if err := listenOptions(fd, s); err != nil {
			return err
		}
		if err := end.bind(fd); err != nil {
			return err
		}
		if backlog, err = listen(n, s, fd); err != nil || !n.beside {
			return err
		}
		return setInt(fd, "SO_REUSEPORT", unix.SOL_SOCKET, unix.SO_REUSEPORT, 0)
	})
	return backlog, err
}

func (e endpoint) family() int {
	if e.Addr().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func (e endpoint) bind(fd int) error {
	sa, err := e.sockaddr()
	if err != nil {
		return err
	}
	return os.NewSyscallError("bind", unix.Bind(fd, sa))
}
