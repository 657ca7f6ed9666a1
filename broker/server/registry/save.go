package registry

import (
	"maps"
	"slices"

	"github.com/fdbroker/fdbroker/broker/server/journal"
)

// saveListener writes l to the journal, in place of what that says of it.
func (r *Registry) saveListener(l *listener) {
	spec := l.Socket.Spec().String()
	if l.stale {
		spec = stalePrefix + spec
	}
	r.journal.PutListener(&journal.Listener{
		Token: l.Token, Cookie: l.Socket.Cookie(), File: l.Socket.File(), Fence: l.fence.saved(),
		Configured: l.Configured, Adopted: l.Socket.Adopted(), Blocking: l.blocking, Unseen: int(l.unseen), Unstored: l.Unstored, Spec: spec,
	})
}

// Stored says that the store has a socket, which had no room for it before.
func (r *Registry) Stored(token uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range slices.Concat(slices.Collect(maps.Values(r.listeners)), r.stale) {
		if l.Token == token {
			l.Unstored = false
			r.saveListener(l)
		}
	}
}

// saveGrant writes g to the journal, in place of what that says of it.
func (r *Registry) saveGrant(g *Grant) {
	var few [8]uint32
	tokens := few[:0]
	for _, l := range g.listeners {
		tokens = append(tokens, l.Token)
	}
	r.journal.PutGrant(&journal.Grant{
		ID: g.id, Generation: g.generation, Since: g.since, Process: g.process, Peer: g.peer, Signal: g.signal,
		More: g.more, Draining: g.draining, Discovered: g.discovered, Tokens: tokens,
	})
}
