//go:build linux

package server

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/protocol"
)

// registry is the listeners, who holds them, and who waits for them.
//
// Its lock is held for system calls on listeners that cannot block, and
// never across I/O with a client or a log. What happened under it is collected in
// events, for the caller to report once it has let go.
type registry struct {
	lifetimes *lifetimes

	mu        sync.Mutex
	listeners map[string]*listener // by name
	pending   map[string]*inUse    // to be given back; see Settle
	settled   chan struct{}        // closed when none is pending any more; nil where none ever was
	grants    map[int64]*grant
	processes map[processID]*grant // those of grants that follow a process
	pids      map[int]*grant       // the same, by pid
	users     map[uint32]int       // how many of the same each user has
	waiting   []*request           // in the order in which they asked
	lastID    int64
	closed    bool // for good
	left      bool // Serve has left sessions behind: they change nothing any more
	freed     bool // a place or a name may be free for one of those who wait
	events    []event
	watchers  map[*watcher]struct{}
	deploys   map[*deploy]struct{}
	verbose   bool // grants are reported too

	state     *state
	lastToken uint32 // of all sockets: their names in the store

	ward ward
}

// listener is a name with its socket.
type listener struct {
	socket     *socket.Socket
	holders    []*grant // none twice
	record     int32    // in the state
	blocking   bool     // how the broker has left O_NONBLOCK
	unbound    bool     // the socket is its holders' alone
	configured bool     // Reload decides what becomes of it
	told       bool     // that O_NONBLOCK was changed
	care
}

// event is something that happened to a listener or a grant.
type event struct {
	what   string // bound, restored, unbound, granted, draining, ended, flipped, healed, unasked, sick
	name   string // of the listener; empty where a grant says it
	grant  *grant
	names  []string // of the grant, then
	why    ending
	err    error // of unasked and sick
	socket *socket.Socket
	pids   []int // of healed and sick: who holds the listener
}

func newRegistry(l *lifetimes, st *state, verbose bool) *registry {
	return &registry{
		state:     st,
		listeners: make(map[string]*listener),
		verbose:   verbose,
		lifetimes: l,
		grants:    make(map[int64]*grant),
		processes: make(map[processID]*grant),
		pids:      make(map[int]*grant),
		users:     make(map[uint32]int),
		watchers:  make(map[*watcher]struct{}),
		deploys:   make(map[*deploy]struct{}),
		ward:      newWard(),
	}
}

// processOf returns the grant that follows the process with that pid, if any, and that
// it has asked for itself.
func (r *registry) processOf(pid int) *grant {
	r.mu.Lock()
	defer r.mu.Unlock()
	if g := r.pids[pid]; g != nil && !g.found {
		return g
	}
	return nil
}

// do calls f with the lock held, serves those who wait where f has freed
// something, and returns what has happened under the lock.
func (r *registry) do(f func()) []event {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	r.serveWaiting()
	happened := r.events
	r.events = nil
	return happened
}

// note keeps e for the report, and tells those who watch.
func (r *registry) note(e event) {
	r.events = append(r.events, e)
	r.tellWatchers(e)
}

// noteGrant notes what has become of a grant, unless nobody wants to know: with
// each handout something does.
func (r *registry) noteGrant(what string, g *grant, why ending, names func() []string) {
	if r.verbose || len(r.watchers) > 0 {
		r.note(event{what: what, grant: g, names: names(), why: why})
	}
}

// insert adds listeners, whose names are free. It takes the sockets.
func (r *registry) insert(sockets []*socket.Socket) {
	for _, s := range sockets {
		spec := s.Spec()
		l := &listener{socket: s, blocking: spec.Options.Blocking}
		if is, err := s.Blocking(); err == nil {
			l.blocking = is // of one that others hold, as they need it
		}
		r.saveListener(l)
		r.listeners[spec.Name] = l
		r.ward.admit(l)
		r.settle(spec.Name)
		r.note(event{what: "bound", name: spec.Name, socket: s})
	}
	r.freed = true
}

// remove takes listeners out, all or none, and returns their sockets, which the
// caller must close.
func (r *registry) remove(names []string) ([]*socket.Socket, error) {
	for _, name := range names {
		if r.listeners[name] == nil {
			return nil, &protocol.UnknownNameError{Name: name, Names: r.visibleTo(everybody)}
		}
	}
	var sockets []*socket.Socket
	for _, name := range names {
		l := r.listeners[name]
		if l == nil {
			continue // it is named twice
		}
		delete(r.listeners, name)
		r.ward.discharge(l)
		l.unbound = true
		r.state.drop(int(l.record))
		sockets = append(sockets, l.socket)
		for _, g := range slices.Clone(l.holders) {
			r.drop(g, l)
		}
		r.note(event{what: "unbound", name: name, socket: l.socket})
	}
	return sockets, nil
}

// byName returns the listeners, sorted by name.
func (r *registry) byName() []*listener {
	return slices.SortedFunc(maps.Values(r.listeners), func(a, b *listener) int {
		return strings.Compare(a.socket.Name(), b.socket.Name())
	})
}

// drop takes l from g, which ends with its last listener.
func (r *registry) drop(g *grant, l *listener) {
	if len(g.listeners) > 1 {
		r.leave(g, l)
		return
	}
	r.end(g, endUnbound)
	if g.more && !g.kept {
		g.event = protocol.EventUnbound
		g.link.wake()
	}
}

// over reports whether nothing is to be bound any more.
func (r *registry) over() bool { return r.closed || r.left }

// everybody may see everything.
func everybody(*socket.Options) bool { return true }

// visibleTo returns the names that may says yes to, sorted, as far as an error has
// room for them.
func (r *registry) visibleTo(may func(*socket.Options) bool) []string {
	var names []string
	for _, l := range r.byName() {
		if may(l.socket.Spec().Options) {
			names = append(names, l.socket.Name())
		}
	}
	return names[:min(len(names), protocol.MaxNamesInError)]
}

// countFrom makes all ids that come greater than one that somebody has from an earlier
// broker. It returns false where none can be that great.
func (r *registry) countFrom(id int64) bool {
	switch {
	case id <= r.lastID:
		return true
	case id > mostAhead:
		return false
	}
	r.lastID = id
	r.state.set(atLastID, uint64(id))
	return true
}

// newID returns the next grant's id. Ids grow, so that they tell who was first.
func (r *registry) newID() int64 {
	r.lastID++
	r.state.set(atLastID, uint64(r.lastID))
	return r.lastID
}

// clear ends everything for good and returns all sockets, which the caller must close.
func (r *registry) clear() []*socket.Socket {
	r.closed = true
	var sockets []*socket.Socket
	for _, g := range r.grants {
		r.end(g, endStop)
	}
	for _, l := range r.byName() {
		sockets = append(sockets, l.socket)
	}
	clear(r.listeners)
	return sockets
}

// without returns list less its one occurrence of v, and holds on to nothing.
func without[T comparable](list []T, v T) []T {
	if i := slices.Index(list, v); i >= 0 {
		list = slices.Delete(list, i, i+1)
	}
	if len(list) == 0 {
		return nil
	}
	return list
}
