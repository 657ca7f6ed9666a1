//go:build linux

package socket

import (
	"os"
	"time"
)

// Options are the options of a [Spec]. The zero value has every default. Which
// network has which option is the business of [ParseSpec]; [Open] ignores those
// that the network has not.
type Options struct {
	// Backlog is how many connections may wait to be accepted, plus one; the
	// kernel caps it at net.core.somaxconn. Zero means somaxconn.
	Backlog int
	// Allow says who may be handed the socket. Empty means the broker's own uid
	// and root.
	Allow []Who
	// Max is how many processes may be active on the socket. Zero is no limit.
	Max int
	// Mode is the mode of a Unix socket's path. Nil means 0777 less the umask.
	Mode *os.FileMode
	// User and Group own a Unix socket's path: a name or a number. Empty means
	// the broker's own.
	User, Group string
	// V6Only keeps IPv4 out of an IPv6 socket (IPV6_V6ONLY). The networks tcp6
	// and udp6 imply it.
	V6Only bool
	// FreeBind allows an address that no interface has (IP_FREEBIND).
	FreeBind bool
	// Transparent allows any address at all (IP_TRANSPARENT).
	Transparent bool
	// Device is the only interface to listen on (SO_BINDTODEVICE).
	Device string
	// Mark is the mark of packets sent (SO_MARK). Zero is none.
	Mark uint32
	// DeferAccept is how long a connection without data is kept from being
	// accepted, in whole seconds (TCP_DEFER_ACCEPT). Zero is not at all.
	DeferAccept time.Duration
	// FastOpen is how many connections may wait whose handshake came with data
	// (TCP_FASTOPEN). Zero turns that off.
	FastOpen int
	// NoDelay turns TCP_NODELAY on for accepted connections.
	NoDelay bool
	// KeepAlive turns SO_KEEPALIVE on for accepted connections.
	KeepAlive bool
	// Blocking opens the socket without O_NONBLOCK.
	Blocking bool
}

// defaults is what specs without options share. It is constant.
var defaults Options
