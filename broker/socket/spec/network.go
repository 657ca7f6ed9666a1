package spec

import (
	"iter"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A Set is a set of networks, one bit each, in the order of the table below.
type Set uint16

const (
	tcpNet Set = 1 << iota
	tcp4Net
	tcp6Net
	udpNet
	udp4Net
	udp6Net
	unixNet
	unixpacketNet
	unixgramNet
	anyNet // not in the table, see AnyNetwork

	TCP  = tcpNet | tcp4Net | tcp6Net
	UDP  = udpNet | udp4Net | udp6Net
	Inet = TCP | UDP
	Unix = unixNet | unixpacketNet | unixgramNet
	All  = Inet | Unix
	// Listening networks take connections; the others, Packets, receive packets.
	Listening = TCP | unixNet | unixpacketNet
	Packets   = UDP | unixgramNet
	// Only4 and Only6 are bound to one IP version.
	Only4 = tcp4Net | udp4Net
	Only6 = tcp6Net | udp6Net
)

// A Network is one of the words that a spec may put before "://".
type Network struct {
	Name     string
	bit      Set
	Type     int
	Protocol int // named, so that a TCP socket is plain TCP and never becomes MPTCP
}

// networks is constant.
var networks = []*Network{
	{"tcp", tcpNet, unix.SOCK_STREAM, unix.IPPROTO_TCP},
	{"tcp4", tcp4Net, unix.SOCK_STREAM, unix.IPPROTO_TCP},
	{"tcp6", tcp6Net, unix.SOCK_STREAM, unix.IPPROTO_TCP},
	{"udp", udpNet, unix.SOCK_DGRAM, unix.IPPROTO_UDP},
	{"udp4", udp4Net, unix.SOCK_DGRAM, unix.IPPROTO_UDP},
	{"udp6", udp6Net, unix.SOCK_DGRAM, unix.IPPROTO_UDP},
	{"unix", unixNet, unix.SOCK_STREAM, 0},
	{"unixpacket", unixpacketNet, unix.SOCK_SEQPACKET, 0},
	{"unixgram", unixgramNet, unix.SOCK_DGRAM, 0},
}

// Any is the network of a descriptor that need not be a listening socket.
const Any = "any"

// AnyNetwork returns the network Any, to which nothing can be bound. It has the options that only the broker itself
// follows.
func AnyNetwork() *Network { return &Network{Name: Any, bit: anyNet} }

// Networks yields all networks to which a socket can be bound, the preferred ones first.
func Networks() iter.Seq[*Network] { return slices.Values(networks) }

// NetworkOf returns the network of that name, or nil. It does not know [Any].
func NetworkOf(name string) *Network {
	for _, n := range networks {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// In reports whether n is one of set.
func (n *Network) In(set Set) bool { return n.bit&set != 0 }

// NetworkNames lists the networks of set, for error messages.
func NetworkNames(set Set) string {
	var names []string
	for _, n := range networks {
		if n.In(set) {
			names = append(names, n.Name)
		}
	}
	return strings.Join(names, ", ")
}
