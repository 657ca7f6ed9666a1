package spec

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// resolveTime bounds how long Endpoints waits for the resolver.
const resolveTime = 10 * time.Second

// An Endpoint is an address to which a socket of an IP network is to be bound.
type Endpoint struct {
	netip.AddrPort
	V6Only bool // for an IPv6 address: no IPv4 through the same socket
}

// Endpoints returns the address that s means, whose network must be one of IP. If that is all addresses of the machine
// there may be a second, for a kernel without IPv6. Resolving a host's name may block for some seconds.
func (s Spec) Endpoints() ([]Endpoint, error) {
	n := NetworkOf(s.Network)
	host, portText, err := net.SplitHostPort(s.Address)
	number, perr := strconv.ParseUint(portText, 10, 16)
	if err = cmp.Or(err, perr); err != nil {
		return nil, err
	}
	port := uint16(number)
	v6only := n.In(Only6) || s.Opts().V6Only
	if host == "" {
		return wildcards(n, port, v6only), nil
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		if ip, err = resolve(n, host, v6only); err != nil {
			return nil, err
		}
	}
	return []Endpoint{{netip.AddrPortFrom(ip, port), v6only}}, nil
}

func wildcards(n *Network, port uint16, v6only bool) []Endpoint {
	all4 := Endpoint{netip.AddrPortFrom(netip.IPv4Unspecified(), port), false}
	all6 := Endpoint{netip.AddrPortFrom(netip.IPv6Unspecified(), port), v6only}
	switch {
	case n.In(Only4):
		return []Endpoint{all4}
	case v6only:
		return []Endpoint{all6}
	}
	return []Endpoint{all6, all4}
}

// resolve returns the first address of a host. It prefers an IPv4 address, if the network allows one, as package net
// does.
func resolve(n *Network, host string, v6only bool) (netip.Addr, error) {
	want := "ip"
	if v6only {
		want = "ip6"
	} else if n.In(Only4) {
		want = "ip4"
	}
	ctx, cancel := context.WithTimeout(context.Background(), resolveTime)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, want, host)
	if err != nil {
		return netip.Addr{}, Problemf(err, "host %q cannot be resolved: %v", host, Reason(err))
	}
	for _, ip := range ips {
		if ip.Unmap().Is4() {
			return ip.Unmap(), nil
		}
	}
	if len(ips) == 0 {
		return netip.Addr{}, Problemf(unix.EADDRNOTAVAIL, "host %q has no address", host)
	}
	return ips[0], nil
}

// Family returns the address family of e.
func (e Endpoint) Family() int {
	if e.Addr().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// Sockaddr returns e for bind.
func (e Endpoint) Sockaddr() (unix.Sockaddr, error) {
	if e.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(e.Port()), Addr: e.Addr().As4()}, nil
	}
	zone, err := ZoneID(e.Addr().Zone())
	return &unix.SockaddrInet6{Port: int(e.Port()), ZoneId: zone, Addr: e.Addr().As16()}, err
}

// ZoneName returns the name of the interface of that index, or its number.
func ZoneName(index uint32) string {
	if ifi, err := net.InterfaceByIndex(int(index)); err == nil {
		return ifi.Name
	}
	return strconv.FormatUint(uint64(index), 10)
}

// ZoneID returns the index of the interface that a zone names or numbers.
func ZoneID(zone string) (uint32, error) {
	if zone == "" {
		return 0, nil
	}
	if ifi, err := net.InterfaceByName(zone); err == nil {
		return uint32(ifi.Index), nil
	}
	id, err := strconv.ParseUint(zone, 10, 32)
	if err != nil {
		return 0, Problemf(unix.ENODEV, "there is no interface %q", zone)
	}
	return uint32(id), nil
}
