package registry

import (
	"slices"

	"github.com/fdbroker/fdbroker/broker/server/peer"
	"github.com/fdbroker/fdbroker/broker/socket"
)

// After a restart the grant of a connection is reserved for a while, so that nobody takes its places
// while its client reconnects.

// reclaim gives q the grant of an earlier broker that its client names, if it is reserved for its
// process, and reports whether it did.
func (r *Registry) reclaim(q *Request) bool {
	g := r.grants[q.Reclaim]
	if q.Reclaim == 0 || r.phase >= Stopping || g == nil || !g.reserved || !q.More || peer.Exited(g.pidfd) ||
		g.peer.PID != q.Caller.Peer.PID || g.peer.UID != q.Caller.Peer.UID {
		return false
	}
	sockets := make([]*socket.Socket, len(q.Names))
	for i, name := range q.Names {
		j := slices.IndexFunc(g.listeners, func(l *listener) bool { return l.Socket.Name() == name })
		if j < 0 {
			r.end(g, EndDisconnected) // its other places are free for the new grant
			return false
		}
		sockets[i] = g.listeners[j].Socket
	}
	for _, l := range slices.Clone(g.listeners) {
		if !slices.Contains(q.Names, l.Socket.Name()) { // its process has closed it meanwhile
			r.leave(g, l)
			r.resetMode(l)
			r.freed = true
		}
	}
	r.closePidfd(g)
	g.pidfd, g.reserved, g.link = nil, false, q.Link
	q.grant, q.sockets = g, sockets
	q.decide(nil)
	if g.event != "" {
		q.Link.Wake() // it was asked to leave while it was away
	}
	return true
}

// Reserved reports whether there are grants that clients may still reclaim, or have anew.
func (r *Registry) Reserved() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range r.grants {
		if g.reserved {
			return true
		}
	}
	for _, l := range r.listeners {
		if l.away > 0 {
			return true
		}
	}
	return false
}

// EndReserved ends the grants that no client has reclaimed.
func (r *Registry) EndReserved() {
	r.do(func() {
		for _, g := range r.grants {
			if g.reserved {
				r.end(g, EndDisconnected)
			}
		}
		r.endAway()
	})
}
