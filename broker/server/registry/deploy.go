package registry

import (
	"cmp"
	"slices"

	"github.com/fdbroker/fdbroker/protocol"
)

// Enroll makes a deploy of c known, whose workers are of that generation: 0 begins a new one. Link is
// woken when a newer deploy has replaced it. The error is a [*protocol.ReplacedError] if that has
// happened already. Rolls says that its client replaces its workers if asked.
func (r *Registry) Enroll(c *Caller, link Link, names []string, generation int64, rolls bool) (d *Deploy, err error) {
	r.do(func() {
		d, err = r.enrollDeploy(&Deploy{generation: generation, names: names, caller: c, link: link, rolls: rolls})
	})
	return d, err
}

func (r *Registry) enrollDeploy(d *Deploy) (*Deploy, error) {
	if r.usedByOthers(d.caller, d.generation) || !r.skipPast(d.generation) {
		d.generation = 0 // it begins anew
	}
	// A name that is hidden from the caller is like one that is not bound, except that the deploy hears nothing of it.
	d.names = slices.DeleteFunc(slices.Clone(d.names), func(name string) bool {
		l := r.listeners[name]
		return l != nil && !d.caller.May(l.Socket.Spec().Options)
	})
	for _, name := range d.names {
		l := r.listeners[name]
		switch {
		case l == nil: // may be bound later
		case l.fence.excludes(d.caller.Peer.UID, d.generation):
			return nil, &protocol.ReplacedError{Name: name, Generation: d.generation}
		}
	}
	if g := r.drainedWorkerOf(d); g != nil {
		return nil, &protocol.ReplacedError{Name: g.names()[0], Generation: d.generation}
	}
	if d.generation == 0 {
		d.generation = r.newID()
	}
	r.deploys[d] = struct{}{}
	r.revokeClaims(d)
	r.rollStale(d)
	return d, nil
}

// Leave forgets d, whose client has acted on its replacement, or is gone.
func (r *Registry) Leave(d *Deploy) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.deploys, d)
	for _, drain := range d.drains {
		drain.unacked--
		drain.link.Wake()
	}
	d.drains = nil
}

// Replaced reports whether a newer deploy has replaced d.
func (r *Registry) Replaced(d *Deploy) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return d.replaced
}

func (d *Deploy) replace() {
	d.replaced = true
	d.link.Wake()
}

// Roll asks the deploys that name one of the listeners, or have a worker that holds one, to replace their workers by new
// ones. It returns how many there are.
func (r *Registry) Roll(names ...string) (asked int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for d := range r.deploys {
		if d.replaced || !d.rolls || !slices.ContainsFunc(names, func(name string) bool { return r.serves(d, name) }) {
			continue
		}
		d.roll = true
		d.link.Wake()
		asked++
	}
	return asked
}

// Deployers returns the clients whose deploys c sees, by generation: all, or those of its own user. A nil caller sees
// everything.
func (r *Registry) Deployers(c *Caller) []protocol.Deployer {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.deploys) == 0 {
		return nil
	}
	held := make(map[int64][]*Grant)
	for _, g := range r.grants {
		held[g.generation] = append(held[g.generation], g)
	}
	var deployers []protocol.Deployer
	for d := range r.deploys {
		if d.replaced || c != nil && !c.mayDrain(d.caller.Peer) {
			continue
		}
		names := append([]string{}, d.names...)
		for _, g := range held[d.generation] {
			if d.has(g) {
				names = append(names, g.names()...)
			}
		}
		slices.Sort(names)
		p := d.caller.Peer
		deployers = append(deployers, protocol.Deployer{Generation: d.generation, Names: slices.Compact(names), PID: p.PID, UID: p.UID})
	}
	slices.SortFunc(deployers, func(a, b protocol.Deployer) int { return cmp.Compare(a.Generation, b.Generation) })
	return deployers
}

// serves reports whether d names the listener, or has a worker that holds it.
func (r *Registry) serves(d *Deploy, name string) bool {
	l := r.listeners[name]
	return slices.Contains(d.names, name) || l != nil && slices.ContainsFunc(l.allHolders(), d.has)
}

// TakeRoll reports whether d is to be told to replace its workers, once for each [Registry.Roll] that it has not
// been told of.
func (r *Registry) TakeRoll(d *Deploy) (roll bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	roll, d.roll = d.roll, false
	return roll
}

// replaceDeploys tells the deploys that c, by draining the named listeners below limit, has replaced,
// and returns them. Leaving are the grants that are to be asked to leave.
func (r *Registry) replaceDeploys(c *Caller, names []string, limit int64, leaving []*Grant) []*Deploy {
	var replaced []*Deploy
	for d := range r.deploys {
		if !c.mayDrain(d.caller.Peer) {
			continue
		}
		own := slices.ContainsFunc(leaving, func(g *Grant) bool { return d.has(g) })
		older := d.generation < limit && slices.ContainsFunc(names, func(name string) bool { return slices.Contains(d.names, name) })
		if own || older {
			d.replace()
			replaced = append(replaced, d)
		}
	}
	return replaced
}

// replaceDeployOf tells the deploy of q, whose generation is excluded, that it was replaced: it may not
// have heard, if none of its workers held the listener at the time.
func (r *Registry) replaceDeployOf(q *Request) {
	for d := range r.deploys {
		if d.generation == q.age() && belongsTo(q.Caller.Peer, d.caller.Peer) {
			d.replace()
		}
	}
}

// has reports whether g is a worker of d.
func (d *Deploy) has(g *Grant) bool {
	return d.generation != 0 && g.generation == d.generation && belongsTo(g.peer, d.caller.Peer)
}

// drainedWorkerOf returns a worker of d that was asked to leave while d was not known, or nil.
func (r *Registry) drainedWorkerOf(d *Deploy) *Grant {
	for _, g := range r.grants {
		if g.draining && d.has(g) && slices.ContainsFunc(g.listeners, func(l *listener) bool {
			return l.fence.excludes(d.caller.Peer.UID, d.generation)
		}) {
			return g
		}
	}
	return nil
}

// usedByOthers reports whether a deploy or a grant of another user has that generation, and no grant of c's user.
func (r *Registry) usedByOthers(c *Caller, generation int64) (others bool) {
	for d := range r.deploys {
		if d.generation == generation && !belongsTo(c.Peer, d.caller.Peer) {
			return true
		}
	}
	for _, g := range r.grants {
		switch {
		case g.generation != generation:
		case belongsTo(c.Peer, g.peer):
			return false
		default:
			others = true
		}
	}
	return others
}

// revokeClaims gives grants of other users that claimed the generation of d, while d was not known, their own.
func (r *Registry) revokeClaims(d *Deploy) {
	for _, g := range r.grants {
		if g.generation == d.generation && !belongsTo(g.peer, d.caller.Peer) {
			g.generation = g.id
			r.saveGrant(g)
		}
	}
}
