//go:build linux

package server

import (
	"errors"
	"slices"
	"time"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
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

	listeners []*listener       // in the order in which they were asked for
	times     map[*listener]int // how many requests got each, where more than one
	ended     bool
	event     string // for link to tell its client, once it is woken
}

// ending is why a grant ended.
type ending string

const (
	endExited       ending = "exited"
	endDisconnected ending = "disconnected"
	endUndelivered  ending = "client gone"
	endUnbound      ending = "unbound"
	endStop         ending = "stop" // of the broker: the holder goes on
)

// request is one Get until it is decided.
type request struct {
	id       int64
	names    []string
	blocking *bool // what the caller needs, if anything
	since    time.Time
	process  *process // nil: the grant is to last as long as the connection
	client   *client
	link     link // woken when a request that waited is decided
	more     bool // it is to be told what becomes of the grant

	// The decision, guarded by the registry's lock.
	decided bool
	err     error
	grant   *grant
	sockets []*socket.Socket
}

// ask decides q, or puts it in the queue where it may wait and has to.
func (r *registry) ask(q *request, wait bool) {
	q.since = time.Now()
	for _, name := range q.names {
		if l := r.listeners[name]; l != nil && l.full() {
			r.reap(l)
		}
	}
	r.serveWaiting() // whoever has waited for what that freed comes first
	err, final := r.try(q)
	if !final && wait {
		q.id = r.newID()
		r.waiting = append(r.waiting, q)
		return
	}
	if unknown, ok := errors.AsType[*protocol.UnknownNameError](err); ok {
		unknown.Names = r.visibleTo(q.client.may)
	}
	q.decide(err)
}

// askNow decides q if it can be granted without waiting for anything, and without
// getting to know its process; otherwise it changes nothing.
func (r *registry) askNow(q *request) {
	q.since = time.Now()
	if q.process != nil && q.process.pidfd == nil && r.processes[q.process.id] == nil {
		return // the grant that the process was known by has ended
	}
	for _, name := range q.names {
		if l := r.listeners[name]; l == nil || l.full() {
			return
		}
	}
	if err, _ := r.try(q); err == nil {
		q.decide(nil)
	}
}

func (q *request) decide(err error) { q.decided, q.err = true, err }

// cancel takes back a request whose client has gone, or could not be answered.
// What its process has got by other requests stays with the grant.
func (r *registry) cancel(q *request) {
	r.waiting = without(r.waiting, q)
	g := q.grant
	if g == nil || g.ended {
		return
	}
	for _, sock := range q.sockets {
		i := slices.IndexFunc(g.listeners, func(l *listener) bool { return l.socket == sock })
		if i < 0 {
			continue // unbound since
		}
		l := g.listeners[i]
		switch {
		case g.times[l] > 1:
			g.times[l]--
		case len(g.listeners) > 1:
			r.leave(g, l)
			r.restore(l)
			r.freed = true
		default:
			r.end(g, endUndelivered)
		}
	}
}

// leave takes l from g, which has others.
func (r *registry) leave(g *grant, l *listener) {
	g.listeners = without(g.listeners, l)
	delete(g.times, l)
	l.holders = without(l.holders, g)
}

// serveWaiting decides those requests that need not wait any longer. First come,
// first served; a request for several names waits until it can have them
// all, and reserves none meanwhile.
func (r *registry) serveWaiting() {
	for r.freed {
		r.freed = false // try may set it again
		r.waiting = slices.DeleteFunc(r.waiting, func(q *request) bool {
			err, final := r.try(q)
			if err != nil && !final {
				return false
			}
			q.decide(err)
			q.link.wake()
			return true
		})
	}
}

// try grants q all of its names or changes nothing. Where it cannot, final says
// that waiting is of no use.
func (r *registry) try(q *request) (err error, final bool) {
	if q.client.server.desk.ctx.Err() != nil {
		return errStopping, false // grants end now whose holders go on
	}
	own := r.grantOf(q)
	listeners := make([]*listener, len(q.names))
	for i, name := range q.names {
		l := r.listeners[name]
		if l == nil {
			never := socket.CheckName(name) != nil // nothing can ever be bound by it
			return &protocol.UnknownNameError{Name: name}, never
		}
		options := l.socket.Spec().Options
		if !q.client.may(options) {
			return &protocol.DeniedError{Name: name, UID: q.client.peer.uid, Allow: allowed(options)}, true
		}
		listeners[i] = l
	}
	for _, l := range listeners {
		if l.full() && !own.holds(l) {
			spec := l.socket.Spec()
			return &protocol.FullError{Name: spec.Name, Max: spec.Options.Max, Holders: holdersOf(l)}, false
		}
	}
	if err := r.setMode(listeners, q.blocking, own); err != nil {
		return err, true
	}
	if own != nil && own.ended { // setMode found its process gone
		own = nil
	}
	return r.grant(q, own, listeners), true
}

// grantOf returns the grant that the process of q, or else its connection, has
// already, if any.
func (r *registry) grantOf(q *request) *grant {
	switch {
	case q.process != nil:
		return r.processes[q.process.id]
	case q.more || q.client.grant == nil || q.client.grant.ended:
		return nil
	}
	return q.client.grant
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
		l.blocking = *need
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
		g = &grant{id: q.id, peer: q.client.peer, since: q.since, link: q.link, more: q.more}
		if g.id == 0 {
			g.id = r.newID()
		}
		if q.process != nil {
			g.pidfd, g.process, g.link = q.process.pidfd, q.process.id, nil
			if err := r.lifetimes.add(g.id, g.pidfd); err != nil {
				for _, l := range listeners {
					r.restore(l)
				}
				return err
			}
			q.process.pidfd = nil // the grant's now
			r.processes[g.process] = g
			r.pids[g.peer.pid] = g
		} else if !q.more {
			q.client.grant = g
		}
		r.grants[g.id] = g
	}
	q.grant = g
	for _, l := range listeners {
		if !g.holds(l) {
			g.listeners = append(g.listeners, l)
			l.holders = append(l.holders, g)
		} else {
			g.again(l)
		}
		q.sockets = append(q.sockets, l.socket)
	}
	r.note(event{what: "granted", grant: g, names: q.names})
	return nil
}

// again counts that one more request got l.
func (g *grant) again(l *listener) {
	if g.times == nil {
		g.times = make(map[*listener]int)
	}
	g.times[l] = max(g.times[l], 1) + 1
}

func (g *grant) holds(l *listener) bool { return g != nil && slices.Contains(g.listeners, l) }

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
	r.note(event{what: "ended", grant: g, names: g.names(), why: why})
	delete(r.grants, g.id)
	if g.pidfd != nil {
		delete(r.processes, g.process)
		if r.pids[g.peer.pid] == g {
			delete(r.pids, g.peer.pid)
		}
		r.lifetimes.remove(g.pidfd)
		_ = g.pidfd.Close()
	}
	for _, l := range g.listeners {
		l.holders = without(l.holders, g)
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
	if is != l.blocking {
		r.note(event{what: "flipped", name: spec.Name, socket: l.socket})
	}
	if is != spec.Options.Blocking && l.socket.SetBlocking(spec.Options.Blocking) != nil {
		return
	}
	l.blocking = spec.Options.Blocking
}

// exited ends the grants of processes that have ended.
func (r *registry) exited(ids []int64) {
	for _, id := range ids {
		if g := r.grants[id]; g != nil && g.pidfd != nil {
			r.end(g, endExited)
		}
	}
}
