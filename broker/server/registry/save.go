package registry

import "github.com/fdbroker/fdbroker/broker/server/journal"

// saveListener writes l to the journal, in place of what that says of it.
func (r *Registry) saveListener(l *listener) {
	r.journal.PutListener(&journal.Listener{
		Token: l.token, Cookie: l.socket.Cookie(), File: l.socket.File(), Fence: l.fence.saved(),
		Configured: l.configured, Adopted: l.socket.Adopted(), Blocking: l.blocking, Spec: l.socket.Spec().String(),
	})
}

// saveGrant writes g to the journal, in place of what that says of it.
func (r *Registry) saveGrant(g *Grant) {
	var few [8]uint32
	tokens := few[:0]
	for _, l := range g.listeners {
		tokens = append(tokens, l.token)
	}
	r.journal.PutGrant(&journal.Grant{
		ID: g.id, Generation: g.generation, Since: g.since, Process: g.process, Peer: g.peer, Signal: g.signal,
		More: g.more, Draining: g.draining, Discovered: g.discovered, Tokens: tokens,
	})
}
