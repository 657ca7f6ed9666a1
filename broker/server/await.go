//go:build linux

package server

import "bytes"

// asked is a Get of a guest that waits: it costs no goroutine, and is answered by the
// desk, which often is who sees that a place is free.
type asked struct {
	request *request
	call    []byte
}

// await answers b, which asks for q, now or when that is decided. It returns whether
// the guest stays.
func (g *guest) await(q *request, b []byte) (stays bool) {
	decided := false
	g.server.locked(func() {
		g.server.registry.ask(q, true)
		decided = q.decided
	})
	if decided {
		return g.answered(q, b)
	}
	g.becomeCalled()
	g.asked = &asked{q, bytes.Clone(b)}
	return true
}

// settle answers the Get that waits, if it is decided, and returns whether the guest has
// what it has asked for.
func (g *guest) settle() (granted bool) {
	r := g.server.registry
	r.mu.Lock()
	decided := g.asked.request.decided
	r.mu.Unlock()
	if !decided {
		return false
	}
	q, b := g.asked.request, g.asked.call
	g.asked = nil
	g.waited = true
	return g.answered(q, b)
}

// answered sends what has become of q, which b asked for. It returns whether the
// guest stays.
func (g *guest) answered(q *request, b []byte) (stays bool) {
	if q.grant == nil {
		return g.promoteWith(b, q) // to be told why not
	}
	g.becomeCalled()
	return g.hand(q, b)
}
