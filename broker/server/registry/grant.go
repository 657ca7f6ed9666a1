package registry

import (
	"slices"

	"github.com/fdbroker/fdbroker/broker/server/peer"
	"github.com/fdbroker/fdbroker/protocol"
)

// Why a grant ended, as events tell it.
const (
	EndExited       = "exited"
	EndDisconnected = "disconnected"
	EndDrained      = "drained"
	EndUndelivered  = "client gone"
	EndUnbound      = "unbound"
	EndRenewed      = "new socket" // the listener has another one
	EndReplaced     = "replaced"   // by one that its process asked for
	EndStop         = "stop"       // of the broker: the holder goes on
)

// grant records that q holds listeners, in own if its process has a grant.
func (r *Registry) grant(q *Request, own *Grant, listeners []*listener) error {
	g := own
	if g == nil {
		var err error
		if g, err = r.newGrant(q); err != nil {
			for _, l := range listeners {
				r.resetMode(l)
			}
			return err
		}
	}
	q.grant = g
	g.discovered = g.discovered && q.discovered
	changed := q.DrainSignal != 0 && q.DrainSignal != g.signal
	if changed {
		g.signal = q.DrainSignal
	}
	for _, l := range listeners {
		if g.holds(l) {
			g.again(l)
		} else {
			changed = true
			r.hold(g, l)
		}
		q.sockets = append(q.sockets, l.Socket)
	}
	r.replaceDiscovered(q, listeners)
	if changed {
		r.saveGrant(g)
	}
	r.noteGrant(protocol.EventGranted, g, "", func() []string { return q.Names })
	return nil
}

// newGrant makes the grant of q, which holds nothing yet.
func (r *Registry) newGrant(q *Request) (*Grant, error) {
	g := &Grant{id: q.id, peer: q.Caller.Peer, since: q.since, link: q.Link, more: q.More, discovered: q.discovered, generation: q.Generation}
	if g.id == 0 {
		g.id = r.newID()
	}
	if g.generation == 0 {
		g.generation = g.id
	}
	switch {
	case q.process.ID != peer.ID{}:
		if q.process.FD == nil {
			return nil, &protocol.ExitedError{PID: g.peer.PID} // the grant by which the process was known has ended with it
		}
		if err := r.cfg.Exits.Add(g.id, q.process.FD); err != nil {
			return nil, err
		}
		g.pidfd, g.process, g.link = q.process.FD, q.process.ID, nil
		q.process.FD = nil
	case !q.More:
		q.Caller.own = g
	}
	r.enter(g)
	return g, nil
}

// hold makes g one of the holders of l.
func (r *Registry) hold(g *Grant, l *listener) {
	g.listeners = append(g.listeners, l)
	l.holders, l.used = append(l.holders, g), true
	r.cfg.Health.Held(l.Socket)
}

// release takes g from the holders of l.
func (r *Registry) release(g *Grant, l *listener) {
	l.holders = without(l.holders, g)
	r.cfg.Health.Freed(l.Socket)
}

// leave takes l from g, which has others.
func (r *Registry) leave(g *Grant, l *listener) {
	g.listeners = without(g.listeners, l)
	delete(g.times, l)
	r.release(g, l)
	r.saveGrant(g)
}

// again counts that one more request got l.
func (g *Grant) again(l *listener) {
	if g.times == nil {
		g.times = make(map[*listener]int)
	}
	g.times[l] = max(g.times[l], 1) + 1
}

func (g *Grant) holds(l *listener) bool { return g != nil && slices.Contains(g.listeners, l) }

// holdsAny reports whether g holds l or an old socket of it, and so needs no other place.
func (g *Grant) holdsAny(l *listener) bool {
	for ; l != nil; l = l.old {
		if g.holds(l) {
			return true
		}
	}
	return false
}

// end ends g, and frees its places. Ending a grant again does nothing.
func (r *Registry) end(g *Grant, why string) {
	if g.ended {
		return
	}
	g.ended = true
	if g.unfollowed(why) {
		for _, l := range g.listeners {
			r.loseSight(l)
		}
	}
	if g.draining && (why == EndExited || why == EndDisconnected) {
		why = EndDrained
	}
	for _, d := range g.drains {
		d.left--
		d.link.Wake()
	}
	g.drains = nil
	r.noteGrant(protocol.EventEnded, g, why, g.names)
	delete(r.grants, g.id)
	r.journal.RemoveGrant(g.id)
	if g.pidfd != nil {
		r.forget(g)
		r.closePidfd(g)
	}
	for _, l := range g.listeners {
		r.release(g, l)
		if why != EndStop {
			r.resetMode(l)
		}
	}
	g.listeners, g.times = nil, nil
	r.freed = true
}

// enter puts g into the books.
func (r *Registry) enter(g *Grant) {
	r.grants[g.id] = g
	if g.pidfd != nil {
		r.cfg.Descriptors.Add(1)
	}
	if g.pidfd != nil && !g.reserved {
		r.processes[g.process] = g
		r.pids[g.peer.PID] = g
		r.users[g.peer.UID]++
	}
}

func (r *Registry) closePidfd(g *Grant) {
	r.cfg.Exits.Remove(g.pidfd)
	_ = g.pidfd.Close()
	r.cfg.Descriptors.Add(-1)
}

// forget takes g, which follows a process, out of the books of processes.
func (r *Registry) forget(g *Grant) {
	if r.processes[g.process] != g {
		return // it was reserved for a connection
	}
	delete(r.processes, g.process)
	if r.pids[g.peer.PID] == g {
		delete(r.pids, g.peer.PID)
	}
	if r.users[g.peer.UID]--; r.users[g.peer.UID] == 0 {
		delete(r.users, g.peer.UID)
	}
}

// reap ends the grants of l whose process or connection has ended without the broker having been
// told: news of a death may come after the request of the successor.
func (r *Registry) reap(l *listener) {
	for _, g := range slices.Clone(l.holders) {
		switch {
		case g.pidfd != nil && peer.Exited(g.pidfd):
			r.end(g, EndExited)
		case g.link != nil && g.link.Gone():
			r.end(g, EndDisconnected)
		}
	}
}

// discoveredGrantOf returns the grant by which the process of q, whose own grant is to last as long as
// its connection, was discovered to hold listeners, or nil.
func (r *Registry) discoveredGrantOf(q *Request) *Grant {
	if q.process.ID != (peer.ID{}) {
		return nil
	}
	g := r.pids[q.Caller.Peer.PID]
	if g == nil || !g.discovered {
		return nil
	}
	p, err := peer.OfConn(q.Caller.conn, q.Caller.Peer)
	if err != nil {
		return nil
	}
	_ = p.FD.Close()
	if p.ID != g.process { // the pid was that of an earlier process
		return nil
	}
	return g
}

// replaceDiscovered takes listeners, which q has been granted, from the grant that q's process was discovered by.
func (r *Registry) replaceDiscovered(q *Request, listeners []*listener) {
	g := r.discoveredGrantOf(q)
	if g == nil {
		return
	}
	for _, l := range listeners {
		switch {
		case !g.holds(l):
		case len(g.listeners) > 1:
			r.leave(g, l)
		default:
			r.end(g, EndReplaced)
		}
	}
}
