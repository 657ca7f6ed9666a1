package registry

import (
	"slices"
	"time"

	"github.com/fdbroker/fdbroker/broker/server/peer"
	"github.com/fdbroker/fdbroker/protocol"
)

// note keeps e for the report, and queues it for the watchers.
func (r *Registry) note(e Event) {
	r.events = append(r.events, e)
	r.tell(e)
}

// tell queues e for the watchers.
func (r *Registry) tell(e Event) {
	if len(r.watchers) == 0 || e.What == EventUnasked || e.What == EventLost || e.What == EventFaulty || e.What == EventUnwritten {
		return
	}
	p := protocol.Event{What: e.What, Time: time.Now().UnixMicro(), Listener: e.Name, Why: e.Why, Holder: e.Holder}
	if e.Socket != nil {
		p.Network, p.Address = e.Socket.Network(), e.Socket.Address()
	}
	for w := range r.watchers {
		w.add(p)
	}
}

// noteListener notes something about l.
func (r *Registry) noteListener(what string, l *listener) {
	r.note(Event{What: what, Name: l.Socket.Name(), Socket: l.Socket})
}

// noteGrant notes what has become of a grant, unless neither the report nor a watcher wants to know:
// each handout would make one.
func (r *Registry) noteGrant(what string, g *Grant, why string, names func() []string) {
	reported := r.grantEvents.allow(r.cfg.GrantEvents)
	if !reported && len(r.watchers) == 0 {
		return
	}
	h := g.holder()
	h.Names = names()
	e := Event{What: what, Holder: &h, Why: why}
	r.tell(e)
	if reported {
		e.Untold = r.grantEvents.untold
		r.grantEvents.untold = 0
		r.events = append(r.events, e)
	}
}

// eventLimit limits the events of grants that Report receives.
type eventLimit struct {
	second time.Time // the one in which
	count  int       // so many were reported
	untold int       // were not, since the last that was
}

// allow reports whether one more may be reported, with at most so many in a second; a negative number: any.
func (l *eventLimit) allow(most int) bool {
	if most <= 0 {
		return most < 0
	}
	if now := time.Now(); now.Sub(l.second) >= time.Second {
		l.second, l.count = now, 0
	}
	if l.count++; l.count > most {
		l.untold++
		return false
	}
	return true
}

// holder describes g as List and events show it.
func (g *Grant) holder() protocol.Holder {
	state := protocol.StateActive
	if g.draining {
		state = protocol.StateDraining
	}
	h := holder(g.id, g.peer, g.names(), g.since, state, g.link != nil || g.reserved)
	h.Generation, h.Stale = g.generation, g.staleNames()
	return h
}

func holder(id int64, p peer.Credentials, names []string, since time.Time, state string, connection bool) protocol.Holder {
	return protocol.Holder{
		Grant: id, Generation: id, Names: names, PID: p.PID, UID: p.UID, GID: p.GID,
		Since: since.UnixMicro(), State: state, Connection: connection,
	}
}

func (g *Grant) names() []string {
	names := make([]string, 0, len(g.listeners))
	for i, l := range g.listeners {
		// Few processes have an old and a new socket of a name.
		same := func(o *listener) bool { return o.Socket.Name() == l.Socket.Name() }
		if !slices.ContainsFunc(g.listeners[:i], same) {
			names = append(names, l.Socket.Name())
		}
	}
	return names
}

// without returns list less its one occurrence of v, and nil if nothing is left.
func without[T comparable](list []T, v T) []T {
	if i := slices.Index(list, v); i >= 0 {
		list = slices.Delete(list, i, i+1)
	}
	if len(list) == 0 {
		return nil
	}
	return list
}

// add queues e. The first event that finds no room is the last one.
func (w *Watcher) add(e protocol.Event) {
	if w.overflow {
		return
	}
	if w.overflow = len(w.queue) >= watchQueue; !w.overflow {
		w.queue = append(w.queue, e)
	}
	if len(w.queue) == 1 || w.overflow {
		w.link.Wake()
	}
}

// watchQueue limits the events that wait for a watcher.
const watchQueue = 1024
