package registry

import (
	"github.com/fdbroker/fdbroker/broker/server/journal"
	"github.com/fdbroker/fdbroker/broker/socket"
)

// do calls f with the lock held, serves requests that wait if f has freed something, and reports what
// happened once the lock is released.
func (r *Registry) do(f func()) {
	events := r.locked(f)
	for _, e := range events {
		r.cfg.Report(e)
	}
}

func (r *Registry) locked(f func()) []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	r.serveWaiting()
	if err := r.journal.Err(); err != nil && !r.unwritten {
		r.unwritten = true
		r.note(Event{What: EventUnwritten, Err: err})
	}
	events := r.events
	r.events = nil
	return events
}

// Phase returns how far the life of the broker has come.
func (r *Registry) Phase() Phase {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.phase
}

// Stop enters Stopping: from one moment to the next nothing is granted any more, and the journal says how the broker
// ends. What calls under way make of the listeners is still written. Then is called at that moment, with the lock held.
func (r *Registry) Stop(e journal.Ending, pid int, then func()) {
	r.do(func() {
		if r.phase < Stopping {
			r.phase = Stopping
			r.journal.SetEnding(e, pid)
			r.journal.Seal()
		}
		then()
	})
}

// Freeze enters Stopped: the set of listeners does not change any more.
func (r *Registry) Freeze() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.phase = max(r.phase, Stopped)
}

// Close enters Closed: it ends all grants and returns all sockets, which the caller must close.
func (r *Registry) Close() (sockets []*socket.Socket) {
	r.do(func() {
		r.phase = Closed
		for _, g := range r.grants {
			r.end(g, EndStop)
		}
		for _, l := range r.listeners {
			sockets = append(sockets, l.Socket)
		}
		for _, l := range r.stale {
			sockets = append(sockets, l.Socket)
		}
		clear(r.listeners)
		r.stale = nil
		r.sorted = nil
		r.journal.Close()
	})
	return sockets
}

// Exited ends the grants with these ids, whose processes have ended.
func (r *Registry) Exited(ids []int64) {
	r.do(func() {
		for _, id := range ids {
			if g := r.grants[id]; g != nil && g.pidfd != nil {
				r.end(g, EndExited)
			}
		}
	})
}
