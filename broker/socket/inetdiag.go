//go:build linux

package socket

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// The kernel's struct inet_diag_req_v2 and inet_diag_msg (linux/inet_diag.h).
const (
	inetDiagReqSize = 56
	inetDiagMsgSize = 72
	inetDiagV6Only  = 11 // INET_DIAG_SKV6ONLY, an attribute of listening and closed IPv6 sockets

	tcpClose  = 7
	tcpListen = 10
	// Every state but TIME_WAIT and SYN_RECV, whose sockets hold no address against
	// one with SO_REUSEADDR or have no process; the unused bits are for kernels
	// that tell sockets bound without listening apart (≥ 6.8).
	diagStates = ^uint32(1<<6 | 1<<3 | 1<<12)
)

// holdersOfInet returns who has an address that conflicts with end.
func holdersOfInet(n *network, s Spec, end endpoint) holders {
	var listening, others []diagSocket
	eachConflict(n, s, end, diagStates, func(d diagSocket, state byte) {
		if state == tcpListen {
			listening = append(listening, d)
		} else {
			others = append(others, d)
		}
	})
	if len(listening) > 0 {
		return holdersOf(listening)
	}
	return holdersOf(others)
}

// socketsAt returns the sockets that take connections, or packets from anybody, at an
// address that conflicts with end.
func socketsAt(n *network, s Spec, end endpoint) []diagSocket {
	want := byte(tcpClose) // as an unconnected UDP socket is
	if n.in(connNets) {
		want = tcpListen
	}
	var all []diagSocket
	eachConflict(n, s, end, 1<<want, func(d diagSocket, state byte) {
		if state == want {
			all = append(all, d)
		}
	})
	return all
}

// eachConflict calls use with each socket in one of states whose address conflicts with
// end.
func eachConflict(n *network, s Spec, end endpoint, states uint32, use func(d diagSocket, state byte)) {
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		// On an error nobody is found; the address is in use all the same.
		_ = diag(inetDiagRequest(n, family, states, end.Port()), true, func(body []byte) {
			if d, state, ok := conflicting(s, end, body); ok {
				use(d, state)
			}
		})
	}
}

// inetDiagRequest asks for the sockets of a family, in some states, with that local
// port. Where only those that listen are asked for the kernel has much less to look
// through.
func inetDiagRequest(n *network, family byte, states uint32, port uint16) []byte {
	b := make([]byte, inetDiagReqSize)
	b[0], b[1] = family, byte(n.protocol)
	binary.NativeEndian.PutUint32(b[4:], states)
	binary.BigEndian.PutUint16(b[8:], port)
	return b
}

// conflicting parses an inet_diag_msg and reports whether its socket has an
// address that end cannot have too.
func conflicting(s Spec, end endpoint, b []byte) (d diagSocket, state byte, ok bool) {
	if len(b) < inetDiagMsgSize || binary.BigEndian.Uint16(b[4:]) != end.Port() {
		return d, 0, false
	}
	state = b[1]
	ip := netip.AddrFrom4([4]byte(b[8:12]))
	v6only := false
	if b[0] == unix.AF_INET6 {
		ip = netip.AddrFrom16([16]byte(b[8:24])).Unmap()
		v := attribute(b[inetDiagMsgSize:], inetDiagV6Only)
		v6only = len(v) > 0 && v[0] != 0
	}
	bound := binary.NativeEndian.Uint32(b[40:])
	d.cookie = diagCookie(b[44:])
	d.uid = binary.NativeEndian.Uint32(b[64:])
	d.inode = binary.NativeEndian.Uint32(b[68:])
	if bound != 0 && s.options().Device != "" {
		if index, err := zoneID(s.options().Device); err == nil && index != bound {
			return d, state, false // two interfaces
		}
	}
	ours := end.Addr().WithZone("")
	return d, state, ours == ip || covers(ours, end.v6only, ip) || covers(ip, v6only, ours)
}

// covers reports whether a is the address of all that b is one of.
func covers(a netip.Addr, v6only bool, b netip.Addr) bool {
	return a.IsUnspecified() && (a.Is4() == b.Is4() || a.Is6() && !v6only)
}
