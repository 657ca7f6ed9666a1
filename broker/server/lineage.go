//go:build linux

package server

// belongsTo reports whether p may say that it belongs to the deploy of owner: its own user
// may, and root.
func (p peer) belongsTo(owner peer) bool { return p.uid == 0 || p.sameUser(owner) }

// sameUser reports whether p and q are of one user that the broker can tell from others.
func (p peer) sameUser(q peer) bool { return p.uid == q.uid && p.uid != overflowID }

// checkGeneration clears the generation that q claims if that is the deploy of another user:
// generations are guessable.
func (r *registry) checkGeneration(q *request) {
	if q.generation == 0 {
		return
	}
	for d := range r.deploys {
		if d.generation == q.generation && !q.client.peer.belongsTo(d.client.peer) {
			q.generation = 0
			return
		}
	}
	if !r.countFrom(q.generation) {
		q.generation = 0
	}
}

// revokeClaims gives grants of other users that claimed the generation of d, while the broker
// did not know d, their own generation.
func (r *registry) revokeClaims(d *deploy) {
	for _, g := range r.grants {
		if g.generation == d.generation && !g.peer.belongsTo(d.client.peer) {
			g.generation = g.id
			r.saveGrant(g)
		}
	}
}

// isAnothers reports whether a deploy or a grant of another user has that generation, and no
// grant of c's user.
func (r *registry) isAnothers(c *client, generation int64) (others bool) {
	for d := range r.deploys {
		if d.generation == generation && !c.peer.belongsTo(d.client.peer) {
			return true
		}
	}
	for _, g := range r.grants {
		switch {
		case g.generation != generation:
		case c.peer.belongsTo(g.peer):
			return false
		default:
			others = true
		}
	}
	return others
}

// deployOf returns the connected deploy that q belongs to, or nil.
func (r *registry) deployOf(q *request) *deploy {
	for d := range r.deploys {
		if d.generation == q.age() && q.client.peer.belongsTo(d.client.peer) {
			return d
		}
	}
	return nil
}
