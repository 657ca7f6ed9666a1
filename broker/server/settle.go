//go:build linux

package server

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"
)

// Settle waits until all that [Server.Configure] has left out for now is bound: those
// who hold such a socket give it back by Attach. After [Config.OfferTime] it tries once
// more to bind what is missing. It returns nil at once where nothing is, and also when
// ctx ends; otherwise the error is a *[protocol.BindFailedError] with what is missing,
// and the rest is bound.
func (s *Server) Settle(ctx context.Context) error {
	r := s.registry
	r.mu.Lock()
	settled := r.settled
	r.mu.Unlock()
	if settled == nil {
		return nil
	}
	timer := time.NewTimer(s.cfg.OfferTime)
	defer timer.Stop()
	select {
	case <-settled:
		return nil
	case <-ctx.Done():
		return nil
	case <-timer.C:
	}
	return s.tryMissing()
}

// tryMissing binds what is pending, or says why it cannot be.
func (s *Server) tryMissing() error {
	s.binding.Lock()
	defer s.binding.Unlock()
	var missing []*inUse
	s.locked(func() {
		missing = slices.SortedFunc(maps.Values(s.registry.pending), func(a, b *inUse) int {
			return strings.Compare(a.spec.Name, b.spec.Name)
		})
		for _, u := range missing {
			u.invited.end() // from here on it is too late to offer one
		}
		clear(s.registry.pending)
	})
	if len(missing) == 0 {
		return nil
	}
	t := &transition{server: s, recovers: true, impatient: true}
	for _, u := range missing {
		t.fresh = append(t.fresh, u.spec)
		t.configured = append(t.configured, u.spec.Name)
	}
	return t.make()
}

// await makes names pending.
func (r *registry) await(all []*inUse) {
	if len(all) == 0 {
		return
	}
	if r.pending == nil {
		r.pending, r.settled = make(map[string]*inUse), make(chan struct{})
	}
	for _, u := range all {
		r.pending[u.spec.Name] = u
	}
}

// settle notes that a name is bound.
func (r *registry) settle(name string) {
	u := r.pending[name]
	if u == nil {
		return
	}
	u.invited.end()
	if delete(r.pending, name); len(r.pending) == 0 {
		close(r.settled)
	}
}
