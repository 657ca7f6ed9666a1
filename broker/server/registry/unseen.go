package registry

import (
	"maps"
	"slices"

	"github.com/fdbroker/fdbroker/broker/server/journal"
)

// The broker cannot follow a process of another pid namespace. If such a process asks without "more", its grant ends
// with the connection, and the process may go on with the socket: that nobody holds a listener does not mean that
// nobody uses it. Nothing tells when such a process ends, so the listener counts it until it is unbound.

// inUse reports whether a process may use the socket of l.
func (l *listener) inUse() bool { return len(l.holders) > 0 || l.inUnseenUse() }

// inUnseenUse reports whether a process that the broker cannot follow may use the socket of l.
func (l *listener) inUnseenUse() bool { return l.uses() > 0 }

// uses returns how many such processes there may be.
func (l *listener) uses() int { return int(l.unseen + l.away) }

// unfollowed reports whether the end of g, for that reason, says nothing about its process.
func (g *Grant) unfollowed(why string) bool {
	return g.pidfd == nil && !g.more && (why == EndExited || why == EndDisconnected)
}

// LoseSight says that a process uses the socket of a listener, which the broker cannot see.
func (r *Registry) LoseSight(name string) {
	r.do(func() {
		if l := r.listeners[name]; l != nil {
			r.loseSight(l)
		}
	})
}

// loseSight counts a process that goes on with l, as far as the broker knows.
func (r *Registry) loseSight(l *listener) {
	if !l.inUnseenUse() {
		r.cfg.Health.Held(l.Socket) // it may still do harm
	}
	l.unseen++
	r.saveListener(l)
}

// loseSaved does the same for a grant of the broker before whose process cannot be followed. The client of one with
// "more" comes back soon.
func (r *Registry) loseSaved(v *journal.Grant, listeners []*listener) {
	for _, l := range listeners {
		switch {
		case !v.More:
			r.loseSight(l)
			continue
		case !l.inUnseenUse():
			r.cfg.Health.Held(l.Socket)
		}
		l.away++
	}
}

// endAway ends the wait for clients of the broker before that cannot be followed.
func (r *Registry) endAway() {
	for _, l := range slices.Concat(slices.Collect(maps.Values(r.listeners)), r.stale) {
		if l.away == 0 {
			continue
		}
		if l.away = 0; !l.inUnseenUse() {
			r.cfg.Health.Freed(l.Socket)
		}
		r.resetMode(l)
	}
}
