//go:build linux

package server

import (
	"syscall"

	"github.com/fdbroker/fdbroker/broker/socket"
)

// client is who is at the other end of a connection to the control socket: of a
// guest at the desk, or of a session.
type client struct {
	server *Server
	rc     syscall.RawConn
	peer   peer
	groups []uint32 // of the peer, once somebody asked
	grant  *grant   // lasts as long as the connection and has no events; guarded by the registry's lock
	waited bool     // for what it is sent next, as nobody need do for longer than it likes
	owing  bool     // what it was sent last is a reply that it has not waited for, and has to read
}

// link is a connection that somebody else's doing may matter to. Its methods may be
// called with the registry's lock held.
type link interface {
	// wake makes the connection's goroutine look at what has become of its request
	// or its grant. That must have been changed before.
	wake()
	// gone reports whether the peer has closed its end.
	gone() bool
}

// privileged reports whether the peer may change what is bound, and see all.
// That is never uid 65534, which may be anybody.
func (c *client) privileged() bool {
	return c.peer.uid == 0 || c.peer.uid == c.server.uid && c.peer.uid != overflowID
}

// may reports whether the peer may get a listener with these options.
func (c *client) may(o *socket.Options) bool {
	if c.privileged() {
		return true
	}
	for _, who := range o.Allow {
		if c.groups == nil {
			c.groups = groupsOf(c.rc, c.peer.gid)
		}
		if who.Matches(c.peer.uid, c.groups) {
			return true
		}
	}
	return false
}
