//go:build linux

package server

import (
	"time"

	"github.com/fdbroker/fdbroker/protocol"
)

// watchQueue is how many events may wait for a watcher.
const watchQueue = 1024

// watcher is a session that is told what happens. The registry's lock guards it.
type watcher struct {
	link     link
	queue    []protocol.Event
	overflow bool // more has happened than the queue could hold; there will be no more
}

// tell adds e to the queue. The first one that finds no room is the last.
func (w *watcher) tell(e protocol.Event) {
	if w.overflow {
		return
	}
	if w.overflow = len(w.queue) >= watchQueue; !w.overflow {
		w.queue = append(w.queue, e)
	}
	if len(w.queue) == 1 || w.overflow {
		w.link.wake()
	}
}

// take empties the queue. The last event is overflow where that came.
func (w *watcher) take() []protocol.Event {
	events := w.queue
	w.queue = nil
	if w.overflow {
		events = append(events, protocol.Event{What: protocol.EventOverflow, Time: time.Now().UnixMicro()})
	}
	return events
}

// tellWatchers tells all watchers of e. The registry's lock is held.
func (r *registry) tellWatchers(e event) {
	if len(r.watchers) == 0 {
		return
	}
	if e.what == eventUnasked || e.what == eventSick {
		return
	}
	told := e.describe()
	for w := range r.watchers {
		w.tell(told)
	}
}

// describe returns e as watchers are told it.
func (e event) describe() protocol.Event {
	p := protocol.Event{What: e.what, Time: time.Now().UnixMicro(), Listener: e.name, Why: string(e.why)}
	if e.socket != nil {
		p.Network, p.Address = e.socket.Network(), e.socket.Address()
	}
	if e.grant != nil {
		h := e.grant.holder()
		h.Names = e.names
		p.Holder = &h
	}
	return p
}

// tellRefused tells all watchers that a call of c, or its connection, was refused.
func (c *client) tellRefused(method string, err error) {
	r := c.server.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.watchers) == 0 {
		return
	}
	h := holder(0, c.peer, []string{}, time.Now().UnixMicro(), protocol.StateWaiting, true)
	e := protocol.Event{What: protocol.EventRefused, Time: h.Since, Holder: &h, Why: cut(err.Error()), Method: cut(method)}
	for w := range r.watchers {
		w.tell(e)
	}
}

// watch answers Watch until the peer goes, or is too slow to be told everything. One
// that does not read is waited for without limit: what happens meanwhile is bounded by
// the queue, and only the event that is the last one tells the peer what it has missed.
func (s *session) watch(c protocol.Call) error {
	if err := s.mayWatch(c); err != nil {
		s.refuse(c.Method, err)
		return s.replyError(c, err)
	}
	if err := s.awaitRead(); err != nil {
		return err
	}
	r := s.server.registry
	w := &watcher{link: s}
	w.tell(protocol.Event{What: protocol.EventWatching, Time: time.Now().UnixMicro()})
	s.server.locked(func() {
		if e, told := s.server.taken.event(); told {
			w.tell(e)
		}
		r.watchers[w] = struct{}{}
	})
	defer s.server.locked(func() { delete(r.watchers, w) })
	_ = s.file.SetWriteDeadline(time.Time{})
	s.patient.Store(true) // before park asks whether the server stops
	defer s.patient.Store(false)
	for {
		var events []protocol.Event
		err := s.park(func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			events = w.take()
			return len(events) > 0
		})
		if err != nil {
			return err
		}
		for _, e := range events {
			if h := e.Holder; h != nil && e.What != protocol.EventEnded {
				named := *h // others are told of the same holder
				named.Command = command(h.PID)
				e.Holder = &named
			}
			if err := s.reply(c, protocol.WatchReply{Event: e}, e.What != protocol.EventOverflow); err != nil {
				return err
			}
			if e.What == protocol.EventOverflow {
				return nil
			}
		}
	}
}

// mayWatch checks a call of Watch.
func (s *session) mayWatch(c protocol.Call) error {
	switch {
	case !s.privileged():
		return &protocol.PermissionDeniedError{}
	case !c.More || c.Oneway:
		return &protocol.ExpectedMoreError{}
	}
	return nil
}
