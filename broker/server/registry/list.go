package registry

import (
	"slices"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/protocol"
)

// Snapshot is what the books say of a listener.
type Snapshot struct {
	Socket   *socket.Socket
	Blocking bool // how the broker has left O_NONBLOCK
	Holders  int
	Unseen   int  // grants that have ended, while the process may go on with the socket
	Waiting  int  // requests
	Stale    int  // holders of old sockets
	Used     bool // a process may have the socket: somebody holds it, or did, or has opened it
}

// InUse reports whether a process may use the socket, as far as the broker knows.
func (s Snapshot) InUse() bool { return s.Holders+s.Unseen > 0 }

// List returns the listeners that c sees, by name, and their holders, with the names that c sees. A nil
// caller sees everything.
func (r *Registry) List(c *Caller) ([]Snapshot, []protocol.Holder) {
	r.mu.Lock()
	defer r.mu.Unlock()
	waiting := r.waitingFor()
	var shots []Snapshot
	seen := make(map[string]bool)
	for _, l := range r.byName() {
		if name := l.Socket.Name(); c == nil || c.May(l.Socket.Spec().Options) {
			seen[name] = true
			shots = append(shots, l.snapshot(waiting[name]))
		}
	}
	return shots, r.holders(c == nil || c.Privileged, seen)
}

// Snapshots returns what the books say of the named listeners that there are.
func (r *Registry) Snapshots(names []string) (shots []Snapshot) {
	r.mu.Lock()
	defer r.mu.Unlock()
	waiting := r.waitingFor()
	for _, name := range names {
		if l := r.listeners[name]; l != nil {
			shots = append(shots, l.snapshot(waiting[name]))
		}
	}
	return shots
}

func (l *listener) snapshot(waiting int) Snapshot {
	s := Snapshot{Socket: l.Socket, Blocking: l.blocking, Holders: len(l.holders), Unseen: l.uses(), Waiting: waiting, Used: l.used}
	for old := l.old; old != nil; old = old.old {
		s.Stale += len(old.holders)
	}
	return s
}

// waitingFor counts the requests that wait, by name.
func (r *Registry) waitingFor() map[string]int {
	n := make(map[string]int)
	for _, q := range r.waiting {
		for _, name := range q.Names {
			n[name]++
		}
	}
	return n
}

// holders returns grants and requests that wait, with the names that are seen.
func (r *Registry) holders(all bool, seen map[string]bool) []protocol.Holder {
	var hs []protocol.Holder
	for _, g := range r.grants {
		hs = append(hs, g.holder())
	}
	for _, q := range r.waiting {
		h := holder(q.id, q.Caller.Peer, q.Names, q.since, r.stateOf(q), q.process.FD == nil)
		if q.Generation != 0 {
			h.Generation = q.Generation
		}
		hs = append(hs, h)
	}
	if all {
		return hs
	}
	return visible(hs, func(name string) bool { return seen[name] })
}

// stateOf returns what q waits for: a place, if every name is bound.
func (r *Registry) stateOf(q *Request) string {
	for _, name := range q.Names {
		if r.listeners[name] == nil {
			return protocol.StateWaiting
		}
	}
	return protocol.StateStandby
}

// Visible returns those of holders that c sees in a list, with the names that it sees. It takes their names.
func (r *Registry) Visible(c *Caller, holders []protocol.Holder) []protocol.Holder {
	if c.Privileged {
		return holders
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return visible(holders, func(name string) bool {
		l := r.listeners[name]
		return l != nil && c.May(l.Socket.Spec().Options)
	})
}

// visible leaves out the names that are not seen, and holders of which nothing is left.
func visible(holders []protocol.Holder, seen func(name string) bool) []protocol.Holder {
	shown := []protocol.Holder{}
	for _, h := range holders {
		h.Names = slices.DeleteFunc(slices.Clone(h.Names), func(name string) bool { return !seen(name) })
		if len(h.Names) > 0 {
			shown = append(shown, h)
		}
	}
	return shown
}
