//go:build linux

package socket

import (
	"strings"

	"golang.org/x/sys/unix"
)

// A netSet is a set of networks, one bit each, in the order of the table below.
type netSet uint16

const (
	tcpNet netSet = 1 << iota
	tcp4Net
	tcp6Net
	udpNet
	udp4Net
	udp6Net
	unixNet
	unixpacketNet
	unixgramNet
	anyNet // of no entry in the table, see anyNetwork

	tcpNets  = tcpNet | tcp4Net | tcp6Net
	udpNets  = udpNet | udp4Net | udp6Net
	inetNets = tcpNets | udpNets
	unixNets = unixNet | unixpacketNet | unixgramNet
	allNets  = inetNets | unixNets
	// connNets listen for connections; the others receive packets.
	connNets = tcpNets | unixNet | unixpacketNet
	// only4 and only6 are bound to one IP version.
	only4 = tcp4Net | udp4Net
	only6 = tcp6Net | udp6Net
)

// A network is one of the words that a spec may put before "://".
type network struct {
	name     string
	bit      netSet
	sotype   int
	protocol int  // named, so that a TCP socket is plain TCP and never becomes MPTCP
	beside   bool // bind also where sockets that are about to be closed have the address
	brief    bool // where somebody has the address, do not look who
}

// networks is constant.
var networks = [...]network{
	{"tcp", tcpNet, unix.SOCK_STREAM, unix.IPPROTO_TCP, false, false},
	{"tcp4", tcp4Net, unix.SOCK_STREAM, unix.IPPROTO_TCP, false, false},
	{"tcp6", tcp6Net, unix.SOCK_STREAM, unix.IPPROTO_TCP, false, false},
	{"udp", udpNet, unix.SOCK_DGRAM, unix.IPPROTO_UDP, false, false},
	{"udp4", udp4Net, unix.SOCK_DGRAM, unix.IPPROTO_UDP, false, false},
	{"udp6", udp6Net, unix.SOCK_DGRAM, unix.IPPROTO_UDP, false, false},
	{"unix", unixNet, unix.SOCK_STREAM, 0, false, false},
	{"unixpacket", unixpacketNet, unix.SOCK_SEQPACKET, 0, false, false},
	{"unixgram", unixgramNet, unix.SOCK_DGRAM, 0, false, false},
}

// networkOf returns the network of that name, or nil.
func networkOf(name string) *network {
	for i := range networks {
		if networks[i].name == name {
			return &networks[i]
		}
	}
	return nil
}

// network returns the network of s's own spec.
func (s *Socket) network() *network {
	if network := s.spec.Load().Network; network != anyName {
		return networkOf(network)
	}
	return anyNetwork()
}

// in reports whether n is one of set.
func (n *network) in(set netSet) bool { return n.bit&set != 0 }

// networkNames lists the networks of set, for error messages.
func networkNames(set netSet) string {
	var names []string
	for i := range networks {
		if networks[i].in(set) {
			names = append(names, networks[i].name)
		}
	}
	return strings.Join(names, ", ")
}
