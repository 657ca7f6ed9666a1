package spec

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// A Claim is what a bound socket keeps others from: an address, as the kernel compares it.
type Claim struct {
	Network *Network
	End     Endpoint // of an IP socket; port 0: nothing
	Path    string   // of a Unix socket, or its abstract name
	Device  string   // the only interface; empty: all
}

// Claims returns what a socket of s would claim: more than one if the machine decides which. Port 0 claims nothing.
// Resolving a host's name may block for some seconds.
func (s Spec) Claims() ([]Claim, error) {
	n := NetworkOf(s.Network)
	switch {
	case n == nil:
		return nil, nil
	case n.In(Unix):
		return []Claim{{Network: n, Path: s.Address}}, nil
	}
	ends, err := s.Endpoints()
	if err != nil {
		return nil, err
	}
	return []Claim{{Network: n, End: ends[0], Device: s.Opts().Device}}, nil
}

// Conflicts reports whether the kernel refuses one of two sockets with these claims, which share nothing.
func (c Claim) Conflicts(o Claim) bool {
	a, b := c.Network, o.Network
	switch {
	case a.In(Unix) != b.In(Unix) || !a.In(All) || !b.In(All):
		return false
	case a.In(Unix):
		return c.Path == o.Path && (c.Path[0] != '@' || a.Type == b.Type)
	}
	if a.Type != b.Type || a.Protocol != b.Protocol || c.End.Port() != o.End.Port() || c.End.Port() == 0 {
		return false
	}
	if one, other := c.device(), o.device(); one != "" && other != "" && one != other {
		return false
	}
	one, other := c.End.Addr().WithZone(""), o.End.Addr().WithZone("")
	return one == other || c.End.includes(other) || o.End.includes(one)
}

// device returns the only interface of c: a zone is one, too.
func (c Claim) device() string {
	if zone := c.End.Addr().Zone(); zone != "" {
		return zone
	}
	return c.Device
}

// includes reports whether e stands for all addresses, and ip is one of them.
func (e Endpoint) includes(ip netip.Addr) bool {
	a := e.Addr()
	return a.IsUnspecified() && (a.Is4() == ip.Is4() || a.Is6() && !e.V6Only)
}

// A ClaimIndex finds claims that conflict. The zero ClaimIndex is empty.
type ClaimIndex struct {
	at  map[claimKey][]namedClaim // by address
	all map[claimKey][]namedClaim // of a port, whatever the address: looked through for a socket of all addresses only
}

type namedClaim struct {
	name string
	Claim
}

// A claimKey has what two claims must have in common to conflict.
type claimKey struct {
	protocol int
	port     uint16
	ip       netip.Addr // the zero Addr: all
	path     string
}

func (c Claim) keyAt(ip netip.Addr) claimKey {
	if c.Network.In(Inet) {
		return claimKey{protocol: c.Network.Protocol, port: c.End.Port(), ip: ip}
	}
	return claimKey{path: c.Path}
}

// ip returns the address of c, or the zero Addr for all.
func (c Claim) ip() netip.Addr {
	if ip := c.End.Addr(); !ip.IsUnspecified() {
		return ip.WithZone("")
	}
	return netip.Addr{}
}

// Add adds what the listener of that name claims.
func (x *ClaimIndex) Add(name string, claims ...Claim) {
	if x.at == nil {
		x.at, x.all = make(map[claimKey][]namedClaim), make(map[claimKey][]namedClaim)
	}
	for _, c := range claims {
		at, all := c.keyAt(c.ip()), c.keyAt(netip.Addr{})
		x.at[at] = append(x.at[at], namedClaim{name, c})
		if c.Network.In(Inet) {
			x.all[all] = append(x.all[all], namedClaim{name, c})
		}
	}
}

// Find returns the name of a listener with a claim that conflicts with one of claims.
func (x *ClaimIndex) Find(claims ...Claim) (name string, found bool) {
	for _, c := range claims {
		ip, all := c.ip(), c.keyAt(netip.Addr{})
		lists := [][]namedClaim{x.at[c.keyAt(ip)], x.at[all]}
		if !ip.IsValid() {
			lists = [][]namedClaim{x.all[all], x.at[all]}
		}
		for _, list := range lists {
			for _, o := range list {
				if c.Conflicts(o.Claim) {
					return o.name, true
				}
			}
		}
	}
	return "", false
}

// CheckConflicts returns an error with a line for each of specs that cannot be bound beside an earlier one. It leaves
// out hosts that cannot be resolved.
func CheckConflicts(specs []Spec) error {
	var errs []error
	var index ClaimIndex
	for _, s := range specs {
		claims, _ := s.Claims() // Open returns the error
		if name, found := index.Find(claims...); found {
			errs = append(errs, fmt.Errorf("%s: %w", s, TakenBy(name)))
			continue
		}
		index.Add(s.Name, claims...)
	}
	return errors.Join(errs...)
}

// TakenBy returns the error of a spec that has the address of another one.
func TakenBy(name string) error {
	return Problemf(unix.EADDRINUSE, "address already in use by %q, another listener of the same configuration", name)
}
