package registry

import (
	"cmp"
	"slices"

	"github.com/fdbroker/fdbroker/protocol"
)

// Change is what becomes of the set of listeners in one step.
type Change struct {
	// Renew are names of Remove whose listeners in Add follow the old ones: their holders count on, and the registry keeps
	// the old sockets until DropStale.
	Renew []string
	// Left is who may be left on the sockets of Renew; nil: anybody.
	Left    map[string]Left
	Remove  []string   // names; one that has no listener is an error
	Add     []Listener // whose names are free once Remove is done; the registry takes the sockets
	Own     []string   // names that belong to the configuration from now on
	Altered []string   // names whose sockets have other options now
	Claimed Claimed    // holders of a listener of Add
	Pending []string   // names that are not bound, and may be handed back
	Expire  []string   // names that are not pending any more
}

// Apply makes the change, or none of it, and returns the removed listeners, whose sockets the caller
// must close. Other callers see nothing in between. The error is a [*protocol.UnknownNameError], [ErrMoreLeft] or
// [ErrClosed]. Only the binding room may call it.
func (r *Registry) Apply(c Change) (removed []Listener, err error) {
	r.do(func() {
		if err = cmp.Or(r.checkRemoval(c.Remove), r.checkLeft(c.Left)); err != nil {
			return
		}
		for _, name := range c.Remove {
			if l := r.listeners[name]; l != nil && !slices.Contains(c.Renew, name) { // else the call names it twice
				removed = append(removed, l.Listener)
				r.remove(l)
			}
		}
		for _, e := range c.Add {
			r.add(e)
		}
		for _, name := range c.Renew {
			if l := r.listeners[name]; l != nil && slices.Contains(c.Remove, name) && !c.adds(name) {
				r.journal.RemoveListener(l.Token)
				r.supersede(l, nil)
			}
		}
		r.claim(c.Claimed) // before a request that waits gets a place
		for _, name := range c.Own {
			if l := r.listeners[name]; l != nil && !l.Configured { // else it is pending
				l.Configured = true
				r.saveListener(l)
			}
		}
		for _, name := range c.Altered {
			l := r.listeners[name]
			r.resetMode(l)
			r.saveListener(l)
		}
		for _, name := range c.Pending {
			r.pending[name] = true
		}
		for _, name := range c.Expire {
			delete(r.pending, name)
		}
		r.freed = true
	})
	return removed, err
}

func (c Change) adds(name string) bool {
	return slices.ContainsFunc(c.Add, func(e Listener) bool { return e.Socket.Name() == name })
}

func (r *Registry) checkRemoval(names []string) error {
	if r.phase >= Stopped {
		return ErrClosed
	}
	for _, name := range names {
		if r.listeners[name] == nil {
			return &protocol.UnknownNameError{Name: name, Names: r.visibleTo(everything)}
		}
	}
	return nil
}

func (r *Registry) add(e Listener) {
	l := &listener{Listener: e, blocking: e.Socket.Spec().Options.Blocking, used: e.Socket.Taken()}
	if is, err := e.Socket.Blocking(); err == nil {
		l.blocking = is // a socket that others hold keeps their mode
	}
	if was := r.listeners[e.Socket.Name()]; was != nil {
		r.supersede(was, l)
	}
	r.saveListener(l)
	r.enroll(l)
	r.noteListener(protocol.EventBound, l)
}

// enroll puts a listener into the books.
func (r *Registry) enroll(l *listener) {
	name := l.Socket.Name()
	r.listeners[name], r.sorted = l, nil
	r.cfg.Descriptors.Add(1)
	delete(r.pending, name)
	r.cfg.Health.Watch(l.Socket, l.blocking)
}

func (r *Registry) remove(l *listener) {
	delete(r.listeners, l.Socket.Name())
	r.cfg.Descriptors.Add(-1)
	r.sorted = nil
	l.unbound, l.old = true, nil
	r.journal.RemoveListener(l.Token)
	for _, g := range slices.Clone(l.holders) {
		r.revoke(g, l)
	}
	r.cfg.Health.Unwatch(l.Socket)
	r.noteListener(protocol.EventUnbound, l)
}

// revoke takes l from g, which ends with its last listener.
func (r *Registry) revoke(g *Grant, l *listener) {
	if len(g.listeners) > 1 {
		r.leave(g, l)
		return
	}
	r.end(g, EndUnbound)
	if g.more && !g.reserved {
		g.event = protocol.EventUnbound
		g.link.Wake()
	}
}
