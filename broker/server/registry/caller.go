package registry

import (
	"github.com/fdbroker/fdbroker/broker/server/peer"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
)

// Caller is the peer of a control connection, with what it may do.
type Caller struct {
	Peer peer.Credentials
	// Privileged callers may change what is bound, and see everything: root and the broker's user,
	// but never uid 65534, which can stand for anybody.
	Privileged bool

	conn   peer.Conn
	groups []uint32 // once they were needed
	known  *Grant   // of the process with the peer's pid when the connection was accepted
	own    *Grant   // lasts as long as the connection, and has no events
}

// NewCaller returns the caller behind a connection, which must stay open as long as it is used.
// UID is the broker's.
func (r *Registry) NewCaller(conn peer.Conn, p peer.Credentials, uid uint32) Caller {
	c := Caller{Peer: p, conn: conn, Privileged: p.UID == 0 || p.UID == uid && p.UID != peer.OverflowID}
	r.mu.Lock()
	defer r.mu.Unlock()
	if g := r.pids[p.PID]; g != nil && !g.discovered {
		c.known = g
	}
	return c
}

// May reports whether the caller may get a listener with these options.
func (c *Caller) May(o *spec.Options) bool {
	if c.Privileged {
		return true
	}
	for _, who := range o.Allow {
		if c.groups == nil {
			c.groups = peer.Groups(c.conn, c.Peer.GID)
		}
		if who.Matches(c.Peer.UID, c.groups) {
			return true
		}
	}
	return false
}

// mayDrain reports whether the caller may ask a process of p to leave.
func (c *Caller) mayDrain(p peer.Credentials) bool { return c.Privileged || p.SameUser(c.Peer) }

// mayClaim reports whether the caller may say that a process of p holds a listener.
func (c *Caller) mayClaim(p peer.Credentials) bool { return c.Peer.UID == 0 || p.SameUser(c.Peer) }

// belongsTo reports whether p may say that it belongs to a deploy of owner: its user may, and root.
func belongsTo(p, owner peer.Credentials) bool { return p.UID == 0 || p.SameUser(owner) }
