//go:build linux

package server

import (
	"errors"
	"slices"
	"time"

	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// grant is the record that a process holds listeners. It lasts as long as the
// process, which pidfd refers to, or else as long as the connection of link.
// The registry's lock guards all of it but what never changes.
type grant struct {
	id      int64
	peer    peer
	since   time.Time
	pidfd   *scmrights.FD // nil where the grant lasts as long as a connection
	process processID
	link    link // nil where it lasts as long as a process
	more    bool // its client is told what becomes of it
	found   bool // nobody has asked for it: its process was found to hold the socket
	kept    bool // restored, for a connection that has not come yet: pidfd is of its process

	generation int64       // what it belongs to: a deploy, or itself
	signal     unix.Signal // asks its process to leave; 0: nothing does
	draining   bool        // it has been asked to leave
	awaited    []*departure

	listeners []*listener       // in the order in which they were asked for
	times     map[*listener]int // how many requests got each, where more than one
	ended     bool
	record    int    // in the state
	event     string // for link to tell its client, once it is woken
}

// errExited refuses a grant to a process that was known by another grant, until
// that was found to have ended with it.
var errExited = errors.New("the process has exited")

// ending is why a grant ended.
type ending string

const (
	endExited       ending = "exited"
	endDisconnected ending = "disconnected"
	endDrained      ending = "drained"
	endUndelivered  ending = "client gone"
	endUnbound      ending = "unbound"
	endReplaced     ending = "replaced" // by one that its process has asked for
	endStop         ending = "stop"     // of the broker: the holder goes on
)

// leave takes l from g, which has others.
func (r *registry) leave(g *grant, l *listener) {
	g.listeners = without(g.listeners, l)
	delete(g.times, l)
	r.forgetHolder(l, g)
	r.saveGrant(g)
}

// addHolder makes g one of the holders of l.
func (r *registry) addHolder(l *listener, g *grant) {
	if l.holders = append(l.holders, g); len(l.holders) == 1 {
		r.ward.taken(l)
	}
}

// forgetHolder takes g from the holders of l.
func (r *registry) forgetHolder(l *listener, g *grant) {
	if l.holders = without(l.holders, g); len(l.holders) == 0 {
		r.ward.freed(l)
	}
}

// full reports whether l has as many holders as it may have.
func (l *listener) full() bool {
	most := l.socket.Spec().Options.Max
	return most > 0 && len(l.holders) >= most
}

// reap ends the grants of l whose process or connection has ended, and of which
// the broker has not been told yet: news of a death may come after the
// request of its successor.
func (r *registry) reap(l *listener) {
	for _, g := range slices.Clone(l.holders) {
		switch {
		case g.pidfd != nil && exited(g.pidfd):
			r.end(g, endExited)
		case g.link != nil && g.link.gone():
			r.end(g, endDisconnected)
		}
	}
}

// crowded reports whether q would take a process more of its user than there may
// be. Those whose end the broker has not been told of count: to look for them each
// time would let a user at the limit keep the registry busy.
func (r *registry) crowded(q *request) bool {
	return q.process != nil && r.processes[q.process.id] == nil && !q.client.privileged() &&
		r.users[q.client.peer.uid] >= q.client.server.cfg.MaxGrantsPerUID
}

// setMode makes O_NONBLOCK of all listeners what is needed, or of none.
func (r *registry) setMode(listeners []*listener, need *bool, own *grant) (err error) {
	if need == nil {
		return nil
	}
	var changed []*listener
	defer func() {
		if err != nil {
			for _, l := range changed {
				_ = l.socket.SetBlocking(!*need)
			}
		}
	}()
	for _, l := range listeners {
		is, err := l.socket.Blocking()
		if err != nil {
			return err
		}
		if is == *need {
			continue
		}
		r.reap(l) // which restores what nobody holds any more
		if is, err = l.socket.Blocking(); err != nil {
			return err
		}
		if is == *need {
			continue
		}
		if !onlyHolder(l, own) {
			return &protocol.ConflictError{Name: l.socket.Spec().Name, Blocking: is, Holders: holdersOf(l)}
		}
		if err := l.socket.SetBlocking(*need); err != nil {
			return err
		}
		changed = append(changed, l)
	}
	for _, l := range listeners {
		if l.blocking != *need {
			l.blocking = *need
			r.saveListener(l)
		}
	}
	return nil
}

// onlyHolder reports whether nobody but own holds l.
func onlyHolder(l *listener, own *grant) bool {
	return len(l.holders) == 0 || len(l.holders) == 1 && l.holders[0] == own
}

// grant records that q holds listeners, in own where its process has a grant.
func (r *registry) grant(q *request, own *grant, listeners []*listener) error {
	g := own
	if g == nil {
		g = &grant{id: q.id, peer: q.client.peer, since: q.since, link: q.link, more: q.more, found: q.found}
		if g.id == 0 {
			g.id = r.newID()
		}
		if g.generation = q.generation; g.generation == 0 {
			g.generation = g.id
		}
		if q.process != nil {
			g.pidfd, g.process, g.link = q.process.pidfd, q.process.id, nil
			if err := r.follow(g); err != nil {
				for _, l := range listeners {
					r.restore(l)
				}
				return err
			}
			q.process.pidfd = nil // the grant's now
		} else if !q.more {
			q.client.grant = g
		}
		r.enter(g)
	}
	q.grant = g
	g.found = g.found && q.found
	changed := q.drainSignal != 0 && q.drainSignal != g.signal
	if changed {
		g.signal = q.drainSignal
	}
	for _, l := range listeners {
		if !g.holds(l) {
			changed = true
			g.listeners = append(g.listeners, l)
			r.addHolder(l, g)
		} else {
			g.again(l)
		}
		q.sockets = append(q.sockets, l.socket)
	}
	r.replaceFound(q, listeners)
	if changed {
		r.saveGrant(g)
	}
	r.noteGrant(protocol.EventGranted, g, "", func() []string { return q.names })
	return nil
}

// follow makes g end with its process.
func (r *registry) follow(g *grant) error {
	if g.pidfd == nil {
		return errExited
	}
	return r.lifetimes.add(g.id, g.pidfd)
}

// again counts that one more request got l.
func (g *grant) again(l *listener) {
	if g.times == nil {
		g.times = make(map[*listener]int)
	}
	g.times[l] = max(g.times[l], 1) + 1
}

func (g *grant) holds(l *listener) bool { return g != nil && slices.Contains(g.listeners, l) }

// takeEvent returns what the client of g has to be told, once, or "".
func (g *grant) takeEvent() string {
	event := g.event
	g.event = ""
	return event
}

func (g *grant) names() []string {
	names := make([]string, len(g.listeners))
	for i, l := range g.listeners {
		names[i] = l.socket.Spec().Name
	}
	return names
}

// end ends g, and hands its places on. Ending a grant again does nothing.
func (r *registry) end(g *grant, why ending) {
	if g.ended {
		return
	}
	g.ended = true
	if g.draining && (why == endExited || why == endDisconnected) {
		why = endDrained
	}
	g.tellLeft()
	r.noteGrant(protocol.EventEnded, g, why, g.names)
	delete(r.grants, g.id)
	r.state.drop(g.record)
	g.record = 0
	if g.pidfd != nil {
		r.forget(g)
		r.lifetimes.remove(g.pidfd)
		_ = g.pidfd.Close()
	}
	for _, l := range g.listeners {
		r.forgetHolder(l, g)
		if why != endStop {
			r.restore(l)
		}
	}
	g.listeners, g.times = nil, nil
	r.freed = true
}

// restore gives O_NONBLOCK of a listener that nobody holds its own setting back.
// What a worker made of it is reported first. An unbound one is left as it is: its
// workers go on accepting.
func (r *registry) restore(l *listener) {
	if len(l.holders) > 0 || l.unbound {
		return
	}
	is, err := l.socket.Blocking()
	if err != nil {
		return // closed
	}
	spec := l.socket.Spec()
	if is != l.blocking && !l.told {
		r.note(event{what: "flipped", name: spec.Name, socket: l.socket})
	}
	if is != spec.Options.Blocking && l.socket.SetBlocking(spec.Options.Blocking) != nil {
		return
	}
	if l.blocking != spec.Options.Blocking {
		l.blocking = spec.Options.Blocking
		r.saveListener(l)
	}
	l.told = false
}

// exited ends the grants of processes that have ended.
func (r *registry) exited(ids []int64) {
	for _, id := range ids {
		if g := r.grants[id]; g != nil && g.pidfd != nil {
			r.end(g, endExited)
		}
	}
}
