package registry

import (
	"time"

	"github.com/fdbroker/fdbroker/protocol"
)

// Watch returns a watcher whose queue begins with first. Link is woken when there is something to take.
// The caller must end it with [Registry.Unwatch].
func (r *Registry) Watch(link Link, first ...protocol.Event) *Watcher {
	w := &Watcher{link: link, queue: first}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watchers[w] = struct{}{}
	return w
}

// Unwatch ends w.
func (r *Registry) Unwatch(w *Watcher) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.watchers, w)
}

// Take empties the queue of w. The last event is an overflow if more happened than the queue holds;
// nothing follows that.
func (r *Registry) Take(w *Watcher) []protocol.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	events := w.queue
	w.queue = nil
	if w.overflow {
		events = append(events, protocol.Event{What: protocol.EventOverflow, Time: time.Now().UnixMicro()})
	}
	return events
}

// Refused tells the watchers that a call of c, or its connection, was refused.
func (r *Registry) Refused(c *Caller, method, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.watchers) == 0 {
		return
	}
	h := holder(0, c.Peer, []string{}, time.Now(), protocol.StateWaiting, true)
	e := protocol.Event{What: protocol.EventRefused, Time: h.Since, Holder: &h, Why: why, Method: method}
	for w := range r.watchers {
		w.add(e)
	}
}
