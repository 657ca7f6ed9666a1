package registry

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/fdbroker/fdbroker/broker/server/peer"
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/protocol"
)

// Ask decides q, or queues it if it has to wait and may. It reports whether q is decided; if not, the
// registry wakes q.Link once it is.
func (r *Registry) Ask(q *Request, wait bool) (decided bool) {
	r.do(func() {
		q.since = time.Now()
		r.checkGeneration(q)
		if err := r.identify(q); err != nil {
			q.decide(err)
		} else if !r.reclaim(q) {
			r.ask(q, wait)
		}
		decided = q.decided
	})
	return decided
}

// identify finds the process that the grant of q is to last as long as. A connection was accepted while
// the process of a known grant had the peer's pid: until that process has exited, it is the peer. An
// earlier process with that pid would have been accepted before the one that asked for the known grant,
// since the queue of the control socket keeps its order.
func (r *Registry) identify(q *Request) (err error) {
	c := q.Caller
	if q.More || c.Peer.PID == 0 {
		return nil
	}
	if c.known != nil && !c.known.ended && !peer.Exited(c.known.pidfd) {
		q.process.ID = c.known.process
		return nil
	}
	q.process, err = peer.OfConn(c.conn, c.Peer)
	if err == nil && peer.Exited(q.process.FD) {
		// Another process has the connection from it. Its grant would end at once.
		_ = q.process.FD.Close()
		err = peer.ErrExited
	}
	switch {
	case errors.Is(err, peer.ErrUnfollowed):
		return nil // as a process of another pid namespace: the grant lasts as long as the connection
	case errors.Is(err, peer.ErrExited):
		return &protocol.ExitedError{PID: c.Peer.PID}
	case err != nil:
		return fmt.Errorf("cannot follow pid %d: %w", c.Peer.PID, err)
	}
	return nil
}

func (r *Registry) ask(q *Request, wait bool) {
	for _, name := range q.Names {
		if l := r.listeners[name]; l != nil && l.full() {
			r.reap(l)
			for old := l.old; old != nil; old = old.old {
				r.reap(old)
			}
		}
	}
	r.serveWaiting() // a request that has waited for a freed place comes first
	err, final := r.try(q)
	if !final && wait {
		if err := r.crowded(q); err != nil { // it takes a descriptor while it waits, too
			q.decide(err)
			return
		}
		if q.process.FD == nil && q.process.ID != (peer.ID{}) {
			q.process.FD, _ = q.Caller.known.pidfd.Dup() // the known grant may end before q is decided
		}
		if q.process.FD != nil {
			q.counted = r.cfg.Descriptors
			q.counted.Add(1)
		}
		q.id = r.newID()
		r.waiting = append(r.waiting, q)
		return
	}
	if unknown, ok := errors.AsType[*protocol.UnknownNameError](err); ok {
		*unknown = *r.unknown(q.Caller, unknown.Name)
	}
	q.decide(err)
}

func (q *Request) decide(err error) {
	q.decided, q.err = true, err
	if q.counted != nil {
		q.counted.Add(-1)
		q.counted = nil
	}
	if q.process.FD != nil { // no grant has taken it
		_ = q.process.FD.Close()
		q.process.FD = nil
	}
}

// Decided reports whether q is decided.
func (r *Registry) Decided(q *Request) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return q.decided
}

// Result returns what a decided request was given, or why it was refused.
func (q *Request) Result() (*Grant, []*socket.Socket, error) { return q.grant, q.sockets, q.err }

// Cancel takes back a request whose client is gone, or could not be answered. What its process has got
// by other requests stays with the grant.
func (r *Registry) Cancel(q *Request) { r.do(func() { r.cancel(q) }) }

func (r *Registry) cancel(q *Request) {
	if !q.decided {
		r.waiting = without(r.waiting, q)
		q.decide(os.ErrClosed)
	}
	g := q.grant
	if g == nil || g.ended {
		return
	}
	for _, sock := range q.sockets {
		i := slices.IndexFunc(g.listeners, func(l *listener) bool { return l.Socket == sock })
		if i < 0 {
			continue // unbound since
		}
		l := g.listeners[i]
		switch {
		case g.times[l] > 1:
			g.times[l]--
		case len(g.listeners) > 1:
			r.leave(g, l)
			r.resetMode(l)
			r.freed = true
		default:
			r.end(g, EndUndelivered)
		}
	}
}

// serveWaiting decides the requests that need not wait any longer: first come, first served. A request
// for several names waits until it can have all, and reserves none meanwhile.
func (r *Registry) serveWaiting() {
	for r.freed {
		r.freed = false // try may set it again
		r.waiting = slices.DeleteFunc(r.waiting, func(q *Request) bool {
			err, final := r.try(q)
			if err != nil && !final {
				return false
			}
			q.decide(err)
			q.Link.Wake()
			return true
		})
	}
}

// try grants q all of its names, or changes nothing. Final says that waiting is of no use.
func (r *Registry) try(q *Request) (err error, final bool) {
	if r.phase >= Stopping {
		return ErrStopping, false // the holders of grants that end now go on
	}
	listeners, err, final := r.listenersOf(q)
	if err != nil {
		return err, final
	}
	own := r.grantOf(q)
	if err := r.crowded(q); err != nil {
		return err, true
	}
	discovered := r.discoveredGrantOf(q)
	for _, l := range listeners {
		if l.full() && !own.holdsAny(l) && !discovered.holdsAny(l) {
			return &protocol.FullError{Name: l.Socket.Name(), Max: l.Socket.Spec().Options.Max, Holders: holdersOf(l)}, false
		}
	}
	if q.Blocking != nil {
		r.reapForMode(q, listeners)
		own = r.grantOf(q)
		if err := r.setMode(q, own, listeners); err != nil {
			return err, true
		}
	}
	return r.grant(q, own, listeners), true
}

// Unknown returns the error of a caller that asks for a name that is not bound, or hidden from it.
func (r *Registry) Unknown(c *Caller, name string) *protocol.UnknownNameError {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unknown(c, name)
}

// unknown is Unknown with the lock held.
func (r *Registry) unknown(c *Caller, name string) *protocol.UnknownNameError {
	err := &protocol.UnknownNameError{Name: name, Names: r.visibleTo(c.May)}
	if !c.Privileged {
		err.UID = c.Peer.UID
	}
	return err
}

// listenersOf returns the listeners that q names, if it may have them.
func (r *Registry) listenersOf(q *Request) (listeners []*listener, err error, final bool) {
	listeners = make([]*listener, len(q.Names))
	for i, name := range q.Names {
		l := r.listeners[name]
		if l == nil || !q.Caller.May(l.Socket.Spec().Options) {
			err, final := r.missing(q, i)
			return nil, err, final
		}
		if r.excludes(l, q) {
			r.replaceDeployOf(q)
			return nil, &protocol.ReplacedError{Name: name, Generation: q.age()}, true
		}
		listeners[i] = l
	}
	return listeners, nil, false
}

// missing says why q cannot be granted, whose name i is not bound, or hidden from its caller, which is the same to it. Waiting is of no use if the name can
// never be bound, or if q is excluded from a listener that it names later.
func (r *Registry) missing(q *Request, i int) (err error, final bool) {
	for _, name := range q.Names[i+1:] {
		if l := r.listeners[name]; l != nil && q.Caller.May(l.Socket.Spec().Options) && r.excludes(l, q) {
			r.replaceDeployOf(q)
			return &protocol.ReplacedError{Name: name, Generation: q.age()}, true
		}
	}
	name := q.Names[i]
	if r.pending[name] {
		return &protocol.PendingError{Name: name}, false
	}
	return &protocol.UnknownNameError{Name: name}, spec.CheckName(name) != nil
}

// grantOf returns the grant that the process of q, or else its connection, has already, or nil.
func (r *Registry) grantOf(q *Request) *Grant {
	own := q.Caller.own
	switch {
	case q.process.ID != peer.ID{}:
		return r.processes[q.process.ID]
	case q.More || own == nil || own.ended:
		return nil
	}
	return own
}

// crowded returns an error if q would take more processes of its user than there may be, or more descriptors. Processes
// whose end the broker has not been told of count: looking for them each time would let a user at the limit keep the
// registry busy.
func (r *Registry) crowded(q *Request) error {
	switch {
	case q.process.ID == peer.ID{} || r.processes[q.process.ID] != nil || q.Caller.Privileged:
		return nil
	case r.users[q.Caller.Peer.UID] >= r.cfg.MaxGrantsPerUID:
		return &protocol.LimitError{Limit: "grants of one user", Max: r.cfg.MaxGrantsPerUID}
	}
	return r.cfg.Descriptors.Check()
}
