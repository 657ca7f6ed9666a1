//go:build linux

package server

import "github.com/fdbroker/fdbroker/broker/socket"

// mostGenerations bounds how far back a process's parents are looked at.
const mostGenerations = 64

// startedBy reports whether p is a process of a deploy whose client is starter: it, or a
// descendant of it, also where that has become another user's. Where that cannot be seen,
// the user decides.
func (p peer) startedBy(starter peer) bool {
	pid := p.pid
	for range mostGenerations {
		switch {
		case pid == 0, starter.pid == 0: // of another pid namespace, or /proc hides it
			return p.sameUser(starter)
		case pid == starter.pid:
			return true
		case pid == 1:
			return false
		}
		pid = socket.Parent(pid)
	}
	return false
}

// believe drops what q says of its generation where that is a deploy's of another user,
// who has not started it: everybody can guess a number.
func (r *registry) believe(q *request) {
	if q.generation == 0 || q.sure {
		return
	}
	known := false
	for d := range r.deploys {
		if d.generation == q.generation {
			known = true
			q.sure = q.sure || q.client.peer.belongsTo(d)
		}
	}
	if known && !q.sure || !r.countFrom(q.generation) {
		q.generation = 0
	}
}

// disbelieve drops what was said of d's generation, by others, while d was not known.
func (r *registry) disbelieve(d *deploy) {
	for _, g := range r.grants {
		if g.generation == d.generation && !g.sure && !g.peer.belongsTo(d) {
			g.generation = g.id
			r.saveGrant(g)
		}
	}
}

// isAnothers reports whether that generation is known to be a deploy's of another user.
func (r *registry) isAnothers(c *client, generation int64) bool {
	for d := range r.deploys {
		if d.generation == generation && !c.peer.belongsTo(d) {
			return true
		}
	}
	for _, g := range r.grants {
		if g.generation == generation && g.sure && !g.peer.sameUser(c.peer) && !g.peer.startedBy(c.peer) {
			return true
		}
	}
	return false
}

// deployOf returns a deploy that q is believed to belong to, and that its process descends from;
// nil: none is known.
func (r *registry) deployOf(q *request) *deploy {
	for d := range r.deploys {
		if d.generation == q.age() && q.client.peer.startedBy(d.client.peer) {
			return d
		}
	}
	return nil
}

// belongsTo reports whether p may say that it belongs to d.
func (p peer) belongsTo(d *deploy) bool {
	return p.sameUser(d.client.peer) || p.startedBy(d.client.peer)
}

// sameUser reports whether p and q are of one user that the broker can tell from others.
func (p peer) sameUser(q peer) bool { return p.uid == q.uid && p.uid != overflowID }
