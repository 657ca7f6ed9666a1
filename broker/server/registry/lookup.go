package registry

import (
	"maps"
	"slices"
	"strings"

	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/protocol"
)

// byName returns all listeners, by name. The caller must not change it.
func (r *Registry) byName() []*listener {
	if r.sorted == nil { // clients without privilege may ask for it as often as they like
		r.sorted = slices.SortedFunc(maps.Values(r.listeners), func(a, b *listener) int {
			return strings.Compare(a.Socket.Name(), b.Socket.Name())
		})
	}
	return r.sorted
}

func everything(*spec.Options) bool { return true }

// visibleTo returns the names of listeners that may accepts, as many as an error has room for.
func (r *Registry) visibleTo(may func(*spec.Options) bool) (names []string) {
	for _, l := range r.byName() {
		if len(names) == protocol.MaxNamesInError {
			break
		}
		if s := l.Socket.Spec(); may(s.Options) {
			names = append(names, s.Name)
		}
	}
	return names
}

// full reports whether l has as many holders as it may have.
func (l *listener) full() bool {
	most := l.Socket.Spec().Options.Max
	return most > 0 && len(l.allHolders()) >= most
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
		if l == nil || !c.May(l.Socket.Spec().Options) {
			return nil, r.unknown(c, name)
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
	return l.Listener, true
}

// Listeners returns all listeners, by name.
func (r *Registry) Listeners() []Listener {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Listener, 0, len(r.listeners))
	for _, l := range r.byName() {
		all = append(all, l.Listener)
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
