//go:build linux

package server

import (
	"cmp"
	"errors"
	"slices"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/protocol"
)

// snapshot is what the registry's lock has to be held for to describe a listener.
type snapshot struct {
	socket   *socket.Socket
	blocking bool
	holders  int
	waiting  int
	healed   int
	ailment  string
}

// list answers List. Those of callers without privilege are done one after the other:
// what they cost is for all names, and nobody else is to wait for a processor meanwhile.
func (s *session) list(c protocol.Call) error {
	if c.Oneway {
		return nil
	}
	return s.encoded(func(b []byte) ([]byte, error) {
		if !s.privileged() {
			select {
			case s.server.listing <- struct{}{}:
				defer func() { <-s.server.listing }()
			case <-s.ctx.Done():
				return nil, errStopping
			}
		}
		return protocol.AppendReply(b, s.server.list(s.privileged(), s.may), false)
	})
}

// list describes the listeners that the caller may see, and their holders. Whoever
// is not privileged sees what it may get.
func (s *Server) list(privileged bool, may func(*socket.Options) bool) protocol.ListReply {
	var shots []snapshot
	var holders []protocol.Holder
	r := s.registry
	s.locked(func() {
		waiting := r.waitingFor()
		seen := make(map[string]bool)
		for _, l := range r.byName() {
			if spec := l.socket.Spec(); privileged || may(spec.Options) {
				seen[spec.Name] = true
				shots = append(shots, r.snapshot(l, waiting[spec.Name]))
			}
		}
		holders = r.holders(privileged, seen)
	})
	listeners := describeAll(shots)
	for i := range holders {
		holders[i].Command = command(holders[i].PID)
	}
	slices.SortFunc(holders, func(a, b protocol.Holder) int { return cmp.Compare(a.Grant, b.Grant) })
	return protocol.ListReply{Listeners: listeners, Holders: append([]protocol.Holder{}, holders...)}
}

// describe describes the listeners of these names that there are.
func (s *Server) describe(names []string) []protocol.Listener {
	var shots []snapshot
	s.locked(func() {
		waiting := s.registry.waitingFor()
		for _, name := range names {
			if l := s.registry.listeners[name]; l != nil {
				shots = append(shots, s.registry.snapshot(l, waiting[name]))
			}
		}
	})
	return describeAll(shots)
}

// Listeners describes all listeners, by name.
func (s *Server) Listeners() []protocol.Listener { return s.list(true, nil).Listeners }

func (r *registry) snapshot(l *listener, waiting int) snapshot {
	return snapshot{l.socket, l.blocking, len(l.holders), waiting, l.healed(), r.ward.ailmentOf(l)}
}

// describeAll reads from the sockets what the kernel knows of them, which may take long.
func describeAll(shots []snapshot) []protocol.Listener {
	sockets := make([]*socket.Socket, len(shots))
	for i, shot := range shots {
		sockets[i] = shot.socket
	}
	figures, errs := socket.FiguresOf(sockets)
	listeners := make([]protocol.Listener, len(shots))
	for i, shot := range shots {
		listeners[i] = shot.describe(figures[i], errs[i])
	}
	return listeners
}

// describe describes a listener with what the kernel counts, if it does.
func (s snapshot) describe(f socket.Figures, err error) protocol.Listener {
	spec := s.socket.Spec()
	l := protocol.Listener{
		Name: spec.Name, Network: s.socket.Network(), Address: s.socket.Address(), Spec: spec.String(),
		Cookie: s.socket.Cookie(), Max: spec.Options.Max, Holders: s.holders, Waiting: s.waiting,
		Blocking: s.blocking, Bytes: s.socket.Packet(), Healed: s.healed, Ailment: s.ailment,
	}
	if is, err := s.socket.Blocking(); err == nil {
		l.Blocking, l.Flipped = is, is != s.blocking
	}
	// Without figures the listener was unbound a moment ago, or the kernel has none.
	if err == nil {
		l.Queue, l.Limit = new(int64(f.Queue)), new(int64(f.Limit))
		if f.DropsKnown {
			l.Drops = new(uint64(f.Drops))
		}
		l.Orphaned = f.Queue > 0 && s.holders == 0
	}
	return l
}

// waitingFor counts the requests that wait, by name.
func (r *registry) waitingFor() map[string]int {
	n := make(map[string]int)
	for _, q := range r.waiting {
		for _, name := range q.names {
			n[name]++
		}
	}
	return n
}

// holders returns grants and requests that wait, as far as their names are seen.
func (r *registry) holders(all bool, seen map[string]bool) []protocol.Holder {
	var hs []protocol.Holder
	add := func(h protocol.Holder) {
		if !all {
			h.Names = slices.DeleteFunc(slices.Clone(h.Names), func(name string) bool { return !seen[name] })
		}
		if len(h.Names) > 0 {
			hs = append(hs, h)
		}
	}
	for _, g := range r.grants {
		add(g.holder())
	}
	for _, q := range r.waiting {
		h := holder(q.id, q.client.peer, q.names, q.since.UnixMicro(), r.stateOf(q), q.process == nil)
		if q.generation != 0 {
			h.Generation = q.generation
		}
		add(h)
	}
	return hs
}

// stateOf returns what q waits for: a place, if that is all.
func (r *registry) stateOf(q *request) string {
	for _, name := range q.names {
		if r.listeners[name] == nil {
			return protocol.StateWaiting
		}
	}
	return protocol.StateStandby
}

// holdersOf returns the holders of l, for an error; see showHolders.
func holdersOf(l *listener) []protocol.Holder {
	hs := make([]protocol.Holder, len(l.holders))
	for i, g := range l.holders {
		hs[i] = g.holder()
	}
	return hs
}

// showHolders makes the holders that err names what List would show to c: it adds their
// commands, and leaves out names that c may not get. The registry's lock must not be held:
// another process decides how long reading its command takes, as that needs the lock of
// its memory.
func (c *client) showHolders(err error) {
	var holders *[]protocol.Holder
	if e, ok := errors.AsType[*protocol.ConflictError](err); ok {
		holders = &e.Holders
	} else if e, ok := errors.AsType[*protocol.FullError](err); ok {
		holders = &e.Holders
	} else {
		return
	}
	*holders = c.seen(*holders)
	for i, h := range *holders {
		(*holders)[i].Command = command(h.PID)
	}
}

// seen returns those of holders that c sees in a list, with the names that it sees. It
// takes their names.
func (c *client) seen(holders []protocol.Holder) []protocol.Holder {
	if c.privileged() {
		return holders
	}
	r := c.server.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	hidden := func(name string) bool {
		l := r.listeners[name]
		return l == nil || !c.may(l.socket.Spec().Options)
	}
	shown := []protocol.Holder{}
	for _, h := range holders {
		if h.Names = slices.DeleteFunc(h.Names, hidden); len(h.Names) > 0 {
			shown = append(shown, h)
		}
	}
	return shown
}

func (g *grant) holder() protocol.Holder {
	state := protocol.StateActive
	if g.draining {
		state = protocol.StateDraining
	}
	h := holder(g.id, g.peer, g.names(), g.since.UnixMicro(), state, g.link != nil || g.kept)
	h.Generation = g.generation
	return h
}

func holder(id int64, p peer, names []string, since int64, state string, connection bool) protocol.Holder {
	return protocol.Holder{
		Grant: id, Generation: id, Names: names, PID: p.pid, UID: p.uid, GID: p.gid,
		Since: since, State: state, Connection: connection,
	}
}

// allowed says who may get a listener with these options, for an error.
func allowed(o *socket.Options) []string {
	who := []string{"root and the broker's user"}
	for _, w := range o.Allow {
		who = append(who, w.String())
	}
	return who
}
