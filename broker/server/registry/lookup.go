//go:build linux

package registry

import (
	"slices"

	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/protocol"
)

// names returns the names of all listeners, sorted.
func (r *Registry) names() []string {
	names := make([]string, 0, len(r.listeners))
	for name := range r.listeners {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func everything(*spec.Options) bool { return true }

// visibleTo returns the names of listeners that may accepts, as many as an error has room for.
func (r *Registry) visibleTo(may func(*spec.Options) bool) []string {
	names := slices.DeleteFunc(r.names(), func(name string) bool { return !may(r.listeners[name].socket.Spec().Options) })
	return names[:min(len(names), protocol.MaxNamesInError)]
}

// full reports whether l has as many holders as it may have.
func (l *listener) full() bool {
	most := l.socket.Spec().Options.Max
	return most > 0 && len(l.holders) >= most
}

// holdersOf returns the holders of l, for an error; their commands are not read under the lock.
func holdersOf(l *listener) []protocol.Holder {
	hs := make([]protocol.Holder, len(l.holders))
	for i, g := range l.holders {
		hs[i] = g.holder()
	}
	return hs
}

// listenersFor returns the listeners of these names, all of which c may get.
func (r *Registry) listenersFor(c *Caller, names []string) ([]*listener, error) {
	listeners := make([]*listener, len(names))
	for i, name := range names {
		l := r.listeners[name]
		if l == nil {
			return nil, &protocol.UnknownNameError{Name: name, Names: r.visibleTo(c.May)}
		}
		if options := l.socket.Spec().Options; !c.May(options) {
			return nil, &protocol.DeniedError{Name: name, UID: c.Peer.UID, Allow: Allowed(options)}
		}
		listeners[i] = l
	}
	return listeners, nil
}

// Lookup returns the listener of that name.
func (r *Registry) Lookup(name string) (Listener, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.listeners[name]
	if l == nil {
		return Listener{}, false
	}
	return Listener{l.socket, l.token, l.configured}, true
}

// Listeners returns all listeners, by name.
func (r *Registry) Listeners() []Listener {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Listener, 0, len(r.listeners))
	for _, name := range r.names() {
		l := r.listeners[name]
		all = append(all, Listener{l.socket, l.token, l.configured})
	}
	return all
}

// Count returns how many listeners there are.
func (r *Registry) Count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.listeners)
}

// NewToken returns a token that no socket of this broker or an earlier one has had.
func (r *Registry) NewToken() uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastToken++
	return r.lastToken
}
