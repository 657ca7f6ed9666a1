package registry

import (
	"errors"
	"slices"

	"github.com/fdbroker/fdbroker/broker/server/journal"
	"github.com/fdbroker/fdbroker/broker/server/peer"
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/protocol"
)

// A listener that has got a new socket is followed by its stale listener, which has the old one, until the last process
// has left that. A stale listener is granted to nobody, and its holders count as those of the name.

// stalePrefix marks the spec of a stale listener in the journal. No name begins with it, so versions that do not know
// stale listeners drop them.
const stalePrefix = "~"

// supersede makes l stale. Next is about to follow it, or nil if the name is unbound while another one gets the address.
func (r *Registry) supersede(l, next *listener) {
	delete(r.listeners, l.Socket.Name())
	r.sorted = nil
	l.unbound, l.stale = true, true
	if next != nil {
		next.old, next.fence = l, l.fence
	}
	r.stale = append(r.stale, l)
	for _, g := range slices.Clone(l.holders) {
		if g.more { // its client asks for the new socket once it hears of this
			r.end(g, EndRenewed)
			if !g.reserved {
				g.event = protocol.EventUnbound
				g.link.Wake()
			}
		}
	}
	r.saveListener(l)
	r.cfg.Health.Unwatch(l.Socket)
	r.note(Event{What: protocol.EventUnbound, Name: l.Socket.Name(), Socket: l.Socket, Why: EndRenewed})
}

// Stale returns the stale listeners.
func (r *Registry) Stale() []Listener {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Listener, len(r.stale))
	for i, l := range r.stale {
		all[i] = l.Listener
	}
	return all
}

// DropStale forgets a stale listener, which no process has any more, and reports whether it did: then the caller must
// close its socket. While the broker is stopping, grants stay in the journal, so their listeners do, too: the next broker
// forgets both.
func (r *Registry) DropStale(sock *socket.Socket) (dropped bool) {
	r.do(func() {
		l := r.staleOf(sock)
		if l == nil || r.phase >= Stopping {
			return
		}
		dropped = true
		for _, g := range slices.Clone(l.holders) {
			if len(g.listeners) > 1 {
				r.leave(g, l)
			} else {
				r.end(g, EndRenewed)
			}
		}
		r.stale = without(r.stale, l)
		r.cfg.Descriptors.Add(-1)
		for at := r.listeners[sock.Name()]; at != nil; at = at.old {
			if at.old == l {
				at.old = l.old
			}
		}
		r.journal.RemoveListener(l.Token)
		r.freed = true
	})
	return dropped
}

// Left describes who has an old socket.
type Left struct {
	Rolling []protocol.Holder // workers of deploys, which replace them
	Stuck   []protocol.Holder // others, which do not follow by themselves
	Asked   []protocol.Holder // the same, but they have a drain signal
	Moving  int               // connections that are told to ask again
	Unseen  int               // processes that the broker cannot follow
	Strays  []int             // processes without a grant
	known   []int             // the pids of all grants
}

// Knows reports whether a process has a grant.
func (l Left) Knows(pid int) bool { return slices.Contains(l.known, pid) }

// Nobody reports whether no process would be left.
func (l Left) Nobody() bool { return len(l.known) == 0 && l.Unseen == 0 && len(l.Strays) == 0 }

// IsStale reports whether sock is the old socket of a name.
func (r *Registry) IsStale(sock *socket.Socket) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.staleOf(sock) != nil
}

func (r *Registry) staleOf(sock *socket.Socket) *listener {
	for _, l := range r.stale {
		if l.Socket == sock {
			return l
		}
	}
	return nil
}

// StaleHolders returns the processes with a grant of an old socket.
func (r *Registry) StaleHolders(sock *socket.Socket) (pids []int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.staleOf(sock); l != nil {
		for _, g := range l.holders {
			pids = append(pids, g.peer.PID)
		}
	}
	return pids
}

// NoteRenewed notes that the listener which had sock has another one; why says who had the old one.
func (r *Registry) NoteRenewed(sock *socket.Socket, why string) {
	r.do(func() {
		if l := r.listeners[sock.Name()]; l != nil {
			r.note(Event{What: protocol.EventRenewed, Name: sock.Name(), Socket: l.Socket, Why: why})
		}
	})
}

// WouldLeave returns who would be left on the socket of a listener if the name got another one.
func (r *Registry) WouldLeave(name string) (left Left) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.listeners[name]; l != nil {
		left = r.leftOn(l)
	}
	return left
}

// LeftOn returns who has an old socket.
func (r *Registry) LeftOn(sock *socket.Socket) (left Left) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.staleOf(sock); l != nil {
		left = r.leftOn(l)
	}
	return left
}

// ErrMoreLeft says that a process has got a socket since WouldLeave, and would be left on it.
var ErrMoreLeft = errors.New("another process has got the socket meanwhile")

// checkLeft returns an error if others would be left on the sockets of listeners than WouldLeave has said.
func (r *Registry) checkLeft(expected map[string]Left) error {
	for name, left := range expected {
		l := r.listeners[name]
		if l == nil {
			continue
		}
		now := r.leftOn(l)
		more := slices.ContainsFunc(slices.Concat(now.Stuck, now.Asked), func(h protocol.Holder) bool { return !left.Knows(h.PID) })
		if more || now.Unseen > left.Unseen {
			return ErrMoreLeft
		}
	}
	return nil
}

func (r *Registry) leftOn(l *listener) (left Left) {
	left.Unseen = l.uses()
	for _, g := range l.holders {
		if g.pidfd != nil && peer.Exited(g.pidfd) {
			continue
		}
		left.known = append(left.known, g.peer.PID)
		switch {
		case g.more:
			left.Moving++
		case r.deployOf(g) != nil:
			left.Rolling = append(left.Rolling, g.holder())
		case g.draining:
		case g.signal != 0:
			left.Asked = append(left.Asked, g.holder())
		default:
			left.Stuck = append(left.Stuck, g.holder())
		}
	}
	return left
}

// deployOf returns the deploy that has started g and replaces it if asked, or nil.
func (r *Registry) deployOf(g *Grant) *Deploy {
	for d := range r.deploys {
		if !d.replaced && d.rolls && d.has(g) {
			return d
		}
	}
	return nil
}

// LeaveStale asks the holders of a stale socket to leave: deploys are to replace theirs, and if others is set, processes
// that no deploy has started get their drain signals. It returns how many deploys and how many processes were asked.
func (r *Registry) LeaveStale(sock *socket.Socket, others bool) (deploys, asked int) {
	r.do(func() {
		l := r.staleOf(sock)
		if r.phase >= Stopping || l == nil {
			return
		}
		told := make(map[*Deploy]bool)
		for _, g := range slices.Clone(l.holders) {
			if d := r.deployOf(g); d != nil && r.listeners[sock.Name()] != nil { // else new workers could not get it
				if !told[d] {
					told[d], d.roll = true, true
					d.link.Wake()
				}
			} else if others && g.signal != 0 && r.askToLeave(g) {
				asked++
			}
		}
		deploys = len(told)
	})
	return deploys, asked
}

// rollStale makes d, which has come back, replace workers that have an old socket.
func (r *Registry) rollStale(d *Deploy) {
	if !d.rolls {
		return
	}
	for _, l := range r.stale {
		if slices.ContainsFunc(l.holders, func(g *Grant) bool { return !g.draining && d.has(g) }) {
			d.roll = true
			d.link.Wake()
			return
		}
	}
}

// RestoreStale makes sock, which it takes, the old socket of the name that v was.
func (r *Registry) RestoreStale(v *journal.Listener, sock *socket.Socket) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := &listener{
		Listener: Listener{sock, v.Token, v.Configured, v.Unstored}, blocking: v.Blocking, unseen: int32(v.Unseen), unbound: true, stale: true,
		fence: fence{v.Fence.All, v.Fence.Of},
	}
	r.stale = append(r.stale, l)
	r.cfg.Descriptors.Add(1)
	if now := r.listeners[sock.Name()]; now != nil {
		l.old, now.old = now.old, l
	}
}

// StaleSpec returns the spec of a stale listener in the journal, and false if text is that of another one.
func StaleSpec(text string) (spec string, stale bool) {
	if len(text) > 0 && text[:1] == stalePrefix {
		return text[1:], true
	}
	return text, false
}

// allHolders returns the holders of l, and those of its old sockets.
func (l *listener) allHolders() []*Grant {
	if l.old == nil {
		return l.holders
	}
	all := slices.Clone(l.holders)
	for old := l.old; old != nil; old = old.old {
		for _, g := range old.holders {
			if !slices.Contains(all, g) {
				all = append(all, g)
			}
		}
	}
	return all
}

// staleNames returns the names of whose old sockets g has one.
func (g *Grant) staleNames() (names []string) {
	for _, l := range g.listeners {
		if name := l.Socket.Name(); l.stale && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// DiscoverStale records that a process has a stale socket, if it has no grant of it: see [Registry.Discover].
func (r *Registry) DiscoverStale(pid int, sock *socket.Socket) {
	proc, p, err := peer.WithPID(pid)
	if err != nil {
		return
	}
	q := &Request{Names: []string{sock.Name()}, process: proc, discovered: true, Caller: &Caller{Peer: p}}
	held := sock.HeldBy(pid) && !peer.Exited(proc.FD)
	r.do(func() {
		if l := r.staleOf(sock); held && l != nil {
			known := slices.ContainsFunc(l.holders, func(g *Grant) bool { return g.peer.PID == pid })
			if own := r.grantOf(q); !known && !own.holds(l) {
				_ = r.grant(q, own, []*listener{l})
			}
		}
		q.decide(nil)
	})
}
