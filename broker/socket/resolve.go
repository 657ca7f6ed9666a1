//go:build linux

package socket

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// resolveTime bounds how long Open waits for a host's name to be resolved.
const resolveTime = 10 * time.Second

// An endpoint is an address that a socket of an IP network is to be bound to.
type endpoint struct {
	netip.AddrPort
	v6only bool // for an IPv6 address: no IPv4 through the same socket
}

// endpoints returns the address that s means. Where that is all addresses of
// the machine there may be a second, for a kernel that has no IPv6.
func endpoints(n *network, s Spec) ([]endpoint, error) {
	host, portText, err := net.SplitHostPort(s.Address)
	if err != nil {
		return nil, err
	}
	number, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, err
	}
	port := uint16(number)
	v6only := n.in(only6) || s.options().V6Only
	if host == "" {
		return wildcards(n, port, v6only), nil
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		if ip, err = resolve(n, host, v6only); err != nil {
			return nil, err
		}
	}
	return []endpoint{{netip.AddrPortFrom(ip, port), v6only}}, nil
}

func wildcards(n *network, port uint16, v6only bool) []endpoint {
	all4 := endpoint{netip.AddrPortFrom(netip.IPv4Unspecified(), port), false}
	all6 := endpoint{netip.AddrPortFrom(netip.IPv6Unspecified(), port), v6only}
	switch {
	case n.in(only4):
		return []endpoint{all4}
	case v6only:
		return []endpoint{all6}
	}
	return []endpoint{all6, all4}
}

// resolve returns the first address of a host, an IPv4 one if there is any and
// it may be, as package net does.
func resolve(n *network, host string, v6only bool) (netip.Addr, error) {
	want := "ip"
	if v6only {
		want = "ip6"
	} else if n.in(only4) {
		want = "ip4"
	}
	ctx, cancel := context.WithTimeout(context.Background(), resolveTime)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, want, host)
	if err != nil {
		return netip.Addr{}, &problem{fmt.Sprintf("host %q cannot be resolved: %v", host, reason(err)), err, nil}
	}
	for _, ip := range ips {
		if ip.Unmap().Is4() {
			return ip.Unmap(), nil
		}
	}
	if len(ips) == 0 {
		return netip.Addr{}, &problem{fmt.Sprintf("host %q has no address", host), unix.EADDRNOTAVAIL, nil}
	}
	return ips[0], nil
}

// sockaddr returns e for bind.
func (e endpoint) sockaddr() (unix.Sockaddr, error) {
	if e.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(e.Port()), Addr: e.Addr().As4()}, nil
	}
	zone, err := zoneID(e.Addr().Zone())
	return &unix.SockaddrInet6{Port: int(e.Port()), ZoneId: zone, Addr: e.Addr().As16()}, err
}

// zoneName returns the name of the interface of that index, or its number.
func zoneName(index uint32) string {
	if ifi, err := net.InterfaceByIndex(int(index)); err == nil {
		return ifi.Name
	}
	return strconv.FormatUint(uint64(index), 10)
}

// zoneID returns the index of the interface that a zone names or is.
func zoneID(zone string) (uint32, error) {
	if zone == "" {
		return 0, nil
	}
	if ifi, err := net.InterfaceByName(zone); err == nil {
		return uint32(ifi.Index), nil
	}
	id, err := strconv.ParseUint(zone, 10, 32)
	if err != nil {
		return 0, &problem{fmt.Sprintf("there is no interface %q", zone), unix.ENODEV, nil}
	}
	return uint32(id), nil
}
