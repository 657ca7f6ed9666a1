package sockdiag

import (
	"encoding/binary"
	"math"
	"net/netip"
	"slices"

	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"golang.org/x/sys/unix"
)

// The kernel's struct inet_diag_req_v2 and inet_diag_msg (linux/inet_diag.h).
const (
	inetDiagReqSize = 56
	inetDiagMsgSize = 72
	inetDiagV6Only  = 11 // INET_DIAG_SKV6ONLY, an attribute of listening and closed IPv6 sockets
)

// States of TCP sockets (linux/tcp_states.h). A Unix socket that listens and an unconnected UDP socket are in one of
// these, too.
const (
	Close  = 7
	Listen = 10
	// inUse is every state except TIME_WAIT and SYN_RECV, whose sockets do not keep their address from one with
	// SO_REUSEADDR, or have no process. The unused bits are for kernels that tell apart sockets bound without listening
	// (≥ 6.8).
	inUse = ^uint32(1<<6 | 1<<3 | 1<<12)
)

// RetiredIndex is the interface of a retired socket. No interface has that number.
const RetiredIndex = math.MaxInt32

// Conflicts returns the sockets that keep a socket of s from being bound to end: those that listen or, if there are
// none, the others. If sock_diag cannot be asked, it goes by /proc/net: see [Missing].
func Conflicts(s spec.Spec, end spec.Endpoint) []Socket {
	all := conflicts(s, end, inUse)
	if listening := inState(Listen, all); len(listening) > 0 {
		return listening
	}
	return all
}

// Receivers returns those sockets of Conflicts that take connections, or packets from any peer. Retired ones do not.
func Receivers(s spec.Spec, end spec.Endpoint) []Socket {
	if spec.NetworkOf(s.Network).In(spec.Listening) {
		return unretired(inState(Listen, conflicts(s, end, 1<<Listen)))
	}
	return unretired(inState(Close, conflicts(s, end, 1<<Close)))
}

func unretired(all []Socket) []Socket {
	return slices.DeleteFunc(all, func(d Socket) bool { return d.Retired })
}

func inState(state byte, all []Socket) []Socket {
	return slices.DeleteFunc(slices.Clone(all), func(d Socket) bool { return d.state != state })
}

// conflicts returns the sockets in one of states whose address conflicts with end. The kernel has much less to look
// through if only those that listen are asked for.
func conflicts(s spec.Spec, end spec.Endpoint, states uint32) (all []Socket) {
	protocol := spec.NetworkOf(s.Network).Protocol
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		err := eachInet(family, protocol, states, end.Port(), func(body []byte) {
			if d, at, ok := parseInet(body); ok && at.conflicts(s, end) {
				all = append(all, d)
			}
		})
		if err != nil {
			eachInetLine(inetFile(family, protocol), states, func(d Socket, local netip.AddrPort) {
				if (inetAddress{local: local}).conflicts(s, end) {
					all = append(all, d)
				}
			})
		}
	}
	return all
}

// eachInet asks for all sockets of a family and a protocol in one of states, and calls each with every inet_diag_msg. A
// port is a hint for the kernel: only its sockets are wanted.
func eachInet(family byte, protocol int, states uint32, port uint16, each func(body []byte)) error {
	request := make([]byte, inetDiagReqSize)
	request[0], request[1] = family, byte(protocol)
	binary.NativeEndian.PutUint32(request[4:], states)
	binary.BigEndian.PutUint16(request[8:], port)
	module := "tcp_diag"
	if protocol == unix.IPPROTO_UDP {
		module = "udp_diag"
	}
	return absent(module, diag(request, true, each))
}

// inetAddress is what a socket is bound to.
type inetAddress struct {
	local  netip.AddrPort
	v6only bool
	device uint32 // index of the interface; 0: any
}

// parseInet parses an inet_diag_msg.
func parseInet(b []byte) (d Socket, at inetAddress, ok bool) {
	if len(b) < inetDiagMsgSize {
		return d, at, false
	}
	ip := netip.AddrFrom4([4]byte(b[8:12]))
	if b[0] == unix.AF_INET6 {
		ip = netip.AddrFrom16([16]byte(b[8:24])).Unmap()
		v := attribute(b[inetDiagMsgSize:], inetDiagV6Only)
		at.v6only = len(v) > 0 && v[0] != 0
	}
	at.local, at.device = netip.AddrPortFrom(ip, binary.BigEndian.Uint16(b[4:])), binary.NativeEndian.Uint32(b[40:])
	d = Socket{
		Inode: binary.NativeEndian.Uint32(b[68:]), UID: binary.NativeEndian.Uint32(b[64:]), Cookie: cookieOf(b[44:]),
		state: b[1], Retired: at.device == RetiredIndex,
	}
	return d, at, true
}

// conflicts returns false if a socket of s can be bound to end beside one that is bound to a.
func (a inetAddress) conflicts(s spec.Spec, end spec.Endpoint) bool {
	if a.local.Port() != end.Port() {
		return false
	}
	if device := s.Opts().Device; a.device != 0 && device != "" {
		if index, err := spec.ZoneID(device); err == nil && index != a.device {
			return false // two interfaces
		}
	}
	ip, ours := a.local.Addr(), end.Addr().WithZone("")
	return ours == ip || includes(ours, end.V6Only, ip) || includes(ip, a.v6only, ours)
}

// includes reports whether a stands for all addresses, and b is one of them.
func includes(a netip.Addr, v6only bool, b netip.Addr) bool {
	return a.IsUnspecified() && (a.Is4() == b.Is4() || a.Is6() && !v6only)
}
