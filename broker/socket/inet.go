package socket

import (
	"errors"
	"net/netip"
	"os"
	"unsafe"

	"github.com/fdbroker/fdbroker/broker/socket/sockdiag"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// portTries limits the attempts to bind a port that was free a moment ago.
const portTries = 16

func (o *opener) openInet() (sock *Socket, err error) {
	ends, err := o.spec.Endpoints()
	for _, end := range ends {
		sock, err = o.openEndpoint(end)
		if lacksIPv6 := errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL); !lacksIPv6 {
			break
		}
	}
	return sock, err
}

// openEndpoint binds end. Port 0 is bound twice, once to learn a number and then by that number, because a socket that
// was bound to 0 loses its port when a worker shuts it down (docs/kernel.md, Listeners and shutdown).
func (o *opener) openEndpoint(end spec.Endpoint) (*Socket, error) {
	if end.Port() != 0 {
		return o.bindInet(end)
	}
	for range portTries {
		port, err := o.freePort(end)
		if err != nil {
			return nil, o.explainInet(end, err)
		}
		end.AddrPort = netip.AddrPortFrom(end.Addr(), port)
		sock, err := o.bindInet(end)
		if !errors.Is(err, unix.EADDRINUSE) {
			return sock, err
		}
	}
	return nil, spec.Problemf(unix.EADDRINUSE, "each free port was taken by somebody else at once; try again")
}

// freePort returns a port that is free for end just now. It asks for one without SO_REUSEADDR, which would also offer
// ports that only look free.
func (o *opener) freePort(end spec.Endpoint) (port uint16, err error) {
	fd, err := o.newFD(end.Family())
	if err != nil {
		return 0, err
	}
	defer fd.Close()
	return sockdiag.Ask(fd, func(fd int) (uint16, error) {
		if err := bindWith(fd, end, changes(new(spec.Options), o.spec.Opts())...); err != nil {
			return 0, err
		}
		address, err := sockdiag.BoundTo(fd)
		return endpointOf(address).Port(), err
	})
}

// bindInet opens a socket at end, whose port is not 0.
func (o *opener) bindInet(end spec.Endpoint) (*Socket, error) {
	fd, err := o.newFD(end.Family())
	if err != nil {
		return nil, o.explainInet(end, err)
	}
	backlog, err := o.setUpInet(end, fd)
	if err != nil {
		_ = fd.Close() // first: the search for the holder of the address must not find us
		return nil, o.explainInet(end, err)
	}
	return newSocket(o.spec, end.String(), fd, backlog, nil)
}

func (o *opener) setUpInet(end spec.Endpoint, fd *scmrights.FD) (backlog int, err error) {
	opts := changes(new(spec.Options), o.spec.Opts())
	if o.network.In(spec.TCP) {
		opts = append(opts, sockopt{name: "SO_REUSEADDR", level: unix.SOL_SOCKET, number: unix.SO_REUSEADDR, value: 1})
	}
	if o.sharePort {
		opts = append(opts, reusePort(true))
	}
	return sockdiag.Ask(fd, func(fd int) (int, error) {
		if err := bindWith(fd, end, opts...); err != nil {
			return 0, err
		}
		backlog, err := listen(o.spec, fd)
		if err == nil && o.sharePort {
			err = reusePort(false).set(fd)
		}
		return backlog, err
	})
}

// bindWith sets opts and binds. IPV6_V6ONLY cannot change after that (docs/kernel.md, Options).
func bindWith(fd int, end spec.Endpoint, opts ...sockopt) error {
	if end.Addr().Is6() { // always set, because otherwise net.ipv6.bindv6only decides
		opts = append(opts, sockopt{name: "v6only", level: unix.SOL_IPV6, number: unix.IPV6_V6ONLY, value: toInt(end.V6Only)})
	}
	if err := setOptions(fd, opts); err != nil {
		return err
	}
	return bindEndpoint(fd, end)
}

func bindEndpoint(fd int, end spec.Endpoint) error {
	sa, err := end.Sockaddr()
	if err != nil {
		return err
	}
	return os.NewSyscallError("bind", unix.Bind(fd, sa))
}

// disconnect undoes connect(2). To a TCP socket that listens it is a shutdown.
func disconnect(fd int) error {
	none := unix.RawSockaddr{Family: unix.AF_UNSPEC} // for which x/sys has no Sockaddr
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&none)), unsafe.Sizeof(none))
	if errno != 0 {
		return os.NewSyscallError("connect", errno)
	}
	return nil
}

// endpointOf returns the endpoint of a socket that is bound to address.
func endpointOf(address string) spec.Endpoint {
	at, _ := netip.ParseAddrPort(address)
	return spec.Endpoint{AddrPort: at}
}
