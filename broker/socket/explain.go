//go:build linux

package socket

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// explainInet adds to an error of opening end what an operator wants to know.
func explainInet(n *network, s Spec, end endpoint, err error) error {
	if _, ok := errors.AsType[*optionError](err); ok {
		return err
	}
	switch ip := end.Addr(); {
	case errors.Is(err, unix.EADDRINUSE) && end.Port() == 0:
		return &problem{"no port is free (net.ipv4.ip_local_port_range says which there are)", err, nil}
	case errors.Is(err, unix.EADDRINUSE) && n.brief:
		return err
	case errors.Is(err, unix.EADDRINUSE):
		holders := holdersOfInet(n, s, end)
		return &problem{holders.taken(), err, holders.seen}
	case errors.Is(err, unix.EACCES) && end.Port() != 0 && int(end.Port()) < firstFreePort():
		return &problem{fmt.Sprintf("permission denied (ports below %d need CAP_NET_BIND_SERVICE)", firstFreePort()), err, nil}
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return &problem{fmt.Sprintf("no interface of this machine has the address %s (the option freebind binds it all the same)", ip), err, nil}
	case errors.Is(err, unix.EAFNOSUPPORT) && ip.Is6():
		return &problem{"IPv6 is not to be had here (the kernel has none, or this process may not use it)", err, nil}
	case errors.Is(err, unix.EINVAL) && ip.Is6() && ip.IsLinkLocalUnicast() && ip.Zone() == "":
		return &problem{fmt.Sprintf("a link-local address needs its interface: [%s%%INTERFACE]:%d", ip, end.Port()), err, nil}
	case errors.Is(err, unix.ENODEV) && ip.Zone() != "":
		return &problem{fmt.Sprintf("there is no interface %q", ip.Zone()), err, nil}
	}
	return err
}

// firstFreePort returns the lowest port that needs no privilege (ip(7)).
func firstFreePort() int { return sysctl("net/ipv4/ip_unprivileged_port_start", 1024) }
