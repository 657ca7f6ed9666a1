package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"

	"github.com/fdbroker/fdbroker/protocol"
)

// printSpecs prints a configuration file of what is bound. It fails if one of the lines cannot be written.
func printSpecs(w io.Writer, listeners []protocol.Listener) (err error) {
	for _, l := range listeners {
		line := protocol.Printable(specLine(l))
		if _, werr := fmt.Fprintln(w, line); werr != nil {
			err = werr
		}
	}
	return err
}

// writable reports whether a configuration file can have the spec: it takes " #" for a comment, and trims spaces.
func writable(spec string) bool {
	return !strings.Contains(spec, " #") && !strings.Contains(spec, "\t#") && strings.TrimSpace(spec) == spec
}

// specLine returns the line of a listener in a configuration file: a comment if it cannot be in one.
func specLine(l protocol.Listener) string {
	if l.Network == anyNetwork {
		return fmt.Sprintf("# %s is a descriptor that was put with --any: it cannot be in a configuration", l.Name)
	}
	spec := boundSpec(l)
	if !writable(spec) {
		return fmt.Sprintf("# %s cannot be in a configuration, because of its path: %q", l.Name, spec)
	}
	return spec
}

// anyNetwork is the network of what was put with --any.
const anyNetwork = "any"

// boundSpec returns the spec of a listener with the address that was really bound, for port 0 and for an adopted socket.
// A host without an address, and the name of a host, stay as they are.
func boundSpec(l protocol.Listener) string {
	name, rest, _ := strings.Cut(l.Spec, "=")
	address, options, hasOptions := strings.Cut(rest, ",")
	network, at, found := strings.Cut(address, "://")
	if !found {
		network, at = "", address
	} else {
		network += "://"
	}
	if !sameHost(at, l.Address) {
		at = l.Address
	} else if _, port, err := net.SplitHostPort(l.Address); err == nil {
		host, _, _ := net.SplitHostPort(at)
		at = net.JoinHostPort(host, port)
	}
	if hasOptions {
		options = "," + options
	}
	return name + "=" + network + at + options
}

// sameHost reports whether a socket that is bound to address is at the host and port of a spec's, whose port may be 0.
func sameHost(spec, address string) bool {
	host, port, err := net.SplitHostPort(spec)
	at, aerr := netip.ParseAddrPort(address)
	if err != nil || aerr != nil || port != "0" && port != fmt.Sprint(at.Port()) {
		return spec == address
	}
	if host == "" {
		return at.Addr().IsUnspecified()
	}
	ip, err := netip.ParseAddr(host)
	return err != nil || ip == at.Addr()
}
