package registry

import (
	"errors"
	"slices"

	"github.com/fdbroker/fdbroker/broker/server/peer"
	"github.com/fdbroker/fdbroker/protocol"
)

// A drain has two steps. First the fence of each listener is raised, so that excluded processes get no
// place any more, and deploys hear that they were replaced. Once those have acted on it, or have had
// time to, the holders are asked to leave: so a deploy does not start a worker again that leaves.

// Drain is the first step: it fences the named listeners below the generation before, or below every
// generation so far if before is nil. Link is woken when a deploy has acted on it and when a grant ends.
// If c may not get one of the listeners, that is an error and nothing changes.
func (r *Registry) Drain(c *Caller, link Link, names []string, before *int64) (d *Drain, err error) {
	r.do(func() {
		var listeners []*listener
		if r.phase >= Stopping {
			err = ErrStopping // the next broker would not know of it
			return
		}
		if listeners, err = r.listenersFor(c, names); err != nil {
			return
		}
		limit := r.lastID + 1
		if before != nil {
			limit = min(*before, limit)
		}
		d = &Drain{link: link, listeners: listeners, leaving: r.fence(c, listeners, limit)}
		for _, deploy := range r.replaceDeploys(c, names, limit, d.leaving) {
			deploy.drains = append(deploy.drains, d)
			d.unacked++
		}
		r.freed = true // for requests that wait and are excluded now
	})
	return d, err
}

// fence raises the fences of listeners, and returns the grants that are to leave.
func (r *Registry) fence(c *Caller, listeners []*listener, limit int64) []*Grant {
	var leaving []*Grant
	seen := make(map[*Grant]bool)
	for _, l := range listeners {
		l.fence.raise(c, limit)
		r.saveListener(l)
		for _, g := range l.allHolders() {
			if !seen[g] && g.generation < limit && c.mayDrain(g.peer) {
				seen[g] = true
				leaving = append(leaving, g)
			}
		}
	}
	return leaving
}

// Acknowledged reports whether all deploys that d replaced have acted on it.
func (r *Registry) Acknowledged(d *Drain) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return d.unacked == 0
}

// AskToLeave is the second step. If follow is set, d counts those that leave until [Registry.Unfollow].
func (r *Registry) AskToLeave(d *Drain, follow bool) (asked Asked, err error) {
	r.do(func() {
		if r.phase >= Stopping {
			err = ErrStopping
			return
		}
		for _, g := range d.leaving {
			switch {
			case r.askToLeave(g):
				asked.Count++
				if follow {
					g.drains = append(g.drains, d)
				}
			case !g.ended:
				asked.Failed++
			}
		}
		d.left = asked.Count
		for _, l := range d.listeners {
			if len(l.holders) > 0 && !r.stays(l) {
				asked.Unserved = append(asked.Unserved, l.Socket.Name())
			}
		}
	})
	return asked, err
}

// stays reports whether a process will use l, as far as the broker knows, although its draining holders leave.
func (r *Registry) stays(l *listener) bool {
	return l.inUnseenUse() || slices.ContainsFunc(l.holders, func(g *Grant) bool { return !g.draining }) ||
		slices.ContainsFunc(r.waiting, func(q *Request) bool { return slices.Contains(q.Names, l.Socket.Name()) })
}

// Left returns how many of the grants that were asked to leave have not ended.
func (r *Registry) Left(d *Drain) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return d.left
}

// Unfollow makes d count no more.
func (r *Registry) Unfollow(d *Drain) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range d.leaving {
		g.drains = without(g.drains, d)
	}
}

// askToLeave makes g draining, and tells its process or its connection, once. It returns false if that
// has ended or cannot be told.
func (r *Registry) askToLeave(g *Grant) bool {
	switch {
	case g.ended:
		return false
	case g.draining:
		return true
	case g.pidfd != nil && peer.Exited(g.pidfd):
		r.end(g, EndExited)
		return false
	case g.more:
		g.event = protocol.EventDrain
		if g.link != nil {
			g.link.Wake()
		}
	case g.pidfd != nil && g.signal != 0:
		switch err := peer.Signal(g.pidfd, g.peer, g.signal); {
		case errors.Is(err, peer.ErrExited):
			r.end(g, EndExited)
			return false
		case err != nil:
			h := g.holder()
			r.note(Event{What: EventUnasked, Holder: &h, Err: err})
			return false
		}
	}
	g.draining = true
	r.saveGrant(g)
	r.noteGrant(protocol.EventDraining, g, "", g.names)
	return true
}

// finishDrains asks the grants to leave that a drain of the earlier broker fenced off and did not ask.
func (r *Registry) finishDrains() {
	for _, g := range r.grants {
		for _, l := range g.listeners {
			if l.fence.excludes(g.peer.UID, g.generation) {
				r.askToLeave(g)
				break
			}
		}
	}
}

// TakeEvent returns what the client of g is to be sent, once, or "".
func (r *Registry) TakeEvent(g *Grant) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	event := g.event
	g.event = ""
	return event
}

// End ends g, whose connection has ended. Ending a grant again does nothing.
func (r *Registry) End(g *Grant, why string) { r.do(func() { r.end(g, why) }) }

// EndConnection ends the grant without events that lasts as long as the caller's connection, if any.
func (r *Registry) EndConnection(c *Caller, why string) {
	if c.own != nil {
		r.End(c.own, why)
	}
}
