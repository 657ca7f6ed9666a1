//go:build linux

package server

import (
	"errors"
	"slices"
	"time"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/protocol"
	"golang.org/x/sys/unix"
)

// request is one Get until it is decided.
type request struct {
	id          int64
	names       []string
	blocking    *bool       // what the caller needs, if anything
	drainSignal unix.Signal // what is to ask its process to leave; 0: nothing
	generation  int64       // the deploy it belongs to; 0: none
	resume      int64       // the grant of an earlier broker that it is to go on with; 0: none
	since       time.Time
	process     *process // nil: the grant is to last as long as the connection
	client      *client
	link        link // woken when a request that waited is decided
	more        bool // it is to be told what becomes of the grant
	found       bool // nobody asks: its process was found to hold the names

	// The decision, guarded by the registry's lock.
	decided bool
	err     error
	grant   *grant
	sockets []*socket.Socket
}

const (
	// maxID is the greatest id that can be told apart in any language.
	maxID = 1<<53 - 1
	// mostAhead bounds how far a client may make ids begin, by saying that it has a
	// generation from an earlier broker: as many are left for what comes then.
	mostAhead = 1 << 52
)

// request makes the request that a Get of c asks for, without the process that it is
// to last as long as.
func (c *client) request(p *protocol.GetParameters, l link, more bool) (*request, error) {
	signal, err := signalNamed(p.DrainSignal)
	if err != nil {
		return nil, err
	}
	if p.Generation < 0 || p.Generation > maxID {
		return nil, &protocol.InvalidParameterError{Parameter: "generation"}
	}
	return &request{
		names: p.Names, blocking: p.Blocking, drainSignal: signal, generation: p.Generation, resume: p.Resume,
		client: c, link: l, more: more,
	}, nil
}

// age returns what decides whether q has been sent away: its generation, or that of the
// grant that it will become. It is 0 where it comes only now.
func (q *request) age() int64 {
	if q.generation != 0 {
		return q.generation
	}
	return q.id
}

// ask decides q, or puts it in the queue where it may wait and has to.
func (r *registry) ask(q *request, wait bool) {
	q.since = time.Now()
	r.checkGeneration(q)
	if r.resume(q) {
		return
	}
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
	r.checkGeneration(q)
	if r.resume(q) {
		return
	}
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
			return r.missing(q, i)
		}
		options := l.socket.Spec().Options
		if !q.client.may(options) {
			return &protocol.DeniedError{Name: name, UID: q.client.peer.uid, Allow: allowed(options)}, true
		}
		if r.replaced(q, l) {
			return &protocol.ReplacedError{Name: name, Generation: q.age()}, true
		}
		listeners[i] = l
	}
	if r.crowded(q) {
		return &protocol.LimitError{Limit: "grants of one user", Max: q.client.server.cfg.MaxGrantsPerUID}, true
	}
	found := r.foundFor(q)
	for _, l := range listeners {
		if l.full() && !own.holds(l) && !found.holds(l) {
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

// replaced reports whether those who are as old as q have been sent away from l: by who
// may do that to the deploy that q belongs to, if it is known, else to q's user. The deploy
// has to know that, and may not: none of its workers may have held l then.
func (r *registry) replaced(q *request, l *listener) bool {
	sent := l.sentAway()
	if !sent.covers(q.client.peer.uid, q.age()) {
		return false
	}
	d := r.deployOf(q)
	if d == nil {
		return true
	}
	if !sent.covers(d.client.peer.uid, d.generation) {
		return false
	}
	d.replace()
	return true
}

// missing says why q cannot be granted, whose name i is not bound, and whether waiting is
// of no use: where it never can be, or q has been sent away from one that comes after it.
func (r *registry) missing(q *request, i int) (err error, final bool) {
	for _, name := range q.names[i+1:] {
		if l := r.listeners[name]; l != nil && r.replaced(q, l) {
			return &protocol.ReplacedError{Name: name, Generation: q.age()}, true
		}
	}
	name := q.names[i]
	if r.pending[name] != nil {
		return &protocol.PendingError{Name: name}, false
	}
	return &protocol.UnknownNameError{Name: name}, socket.CheckName(name) != nil
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
