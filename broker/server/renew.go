//go:build linux

package server

import (
	"errors"
	"strings"
	"time"

	"github.com/fdbroker/fdbroker/broker/socket"
)

// loss is a name without a socket: workers have the last one open still, which one of
// them has shut down, and an abstract address can only be had without that.
type loss struct {
	listener *listener
	what     string
	sickness
}

// replace has a new socket opened for p, whose own is spent.
func (h *healer) replace(p patient, undone []string) {
	r := h.server.registry
	l := p.listener
	what := strings.Join(undone, ", ")
	if what == "" {
		what = "path removed"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if l.unbound || l.socket != p.socket {
		return
	}
	s := r.ward.sicken(l)
	if s.replacing || time.Now().Before(s.next) {
		return
	}
	if next := l.history().fresh.Add(lookEvery); time.Now().Before(next) { // it is spent again and again
		s.next = next
		return
	}
	s.replacing = true
	h.running.Go(func() { h.renew(p, what) })
}

// renew gives l another socket. Who holds the old one is told that it was unbound.
func (h *healer) renew(p patient, what string) {
	s, r, l := h.server, h.server.registry, p.listener
	s.binding.Lock()
	defer s.binding.Unlock()
	r.mu.Lock()
	gone := l.unbound || r.closed || r.state.frozen
	r.mu.Unlock()
	if gone {
		return
	}
	next, settle, err := socket.Reopen(p.socket)
	abstract := strings.HasPrefix(p.socket.Address(), "@")
	if err == nil {
		s.keepSockets([]*socket.Socket{next})
	}
	var old []*socket.Socket
	s.locked(func() {
		switch {
		case err == nil && !r.state.frozen: // else the next broker will see to it
			old = r.exchange(l, next, what)
		case err == nil:
		case abstract:
			old = r.lose(l, what)
		default:
			if sick := r.ward.sick[l]; sick != nil {
				sick.replacing = false
			}
			r.treated(p, nil, err)
		}
	})
	if err == nil {
		if settle(len(old) > 0); len(old) == 0 {
			s.unkeepSocket(next)
		}
	}
	s.closeAll(old)
}

// exchange makes next the socket of l's name, and returns the old one, which the caller
// must close.
func (r *registry) exchange(l *listener, next *socket.Socket, what string) []*socket.Socket {
	name, pids := next.Spec().Name, l.pids()
	old, _ := r.remove([]string{name}) // it is there
	r.insert([]*socket.Socket{next})
	r.succeed(l, r.listeners[name], what, pids)
	return old
}

// succeed makes next what l was.
func (r *registry) succeed(l, next *listener, what string, pids []int) {
	next.configured = l.configured
	past := next.history()
	past.healed, past.fresh, past.sent = l.healed()+1, time.Now(), l.sentAway()
	r.saveListener(next)
	r.note(event{
		what: eventHealed, name: next.socket.Spec().Name, socket: next.socket, pids: pids,
		why: ending(what + "; it has a new socket, and who has the old one must get it again"),
	})
}

// lose makes l's name one without a socket, and returns the old one.
func (r *registry) lose(l *listener, what string) []*socket.Socket {
	name, pids := l.socket.Spec().Name, l.pids()
	old, _ := r.remove([]string{name})
	r.ward.lost[name] = &loss{listener: l, what: what, sickness: sickness{next: time.Now().Add(lookEvery)}}
	r.ward.nudge()
	r.note(event{what: eventSick, name: name, socket: l.socket, err: errors.New(what + ": it takes a new socket, for which all must close the old one"), pids: pids})
	return old
}

// findLost tries to bind the names that have no socket.
func (h *healer) findLost() {
	r := h.server.registry
	r.mu.Lock()
	none := len(r.ward.lost) == 0 || r.state.frozen
	r.mu.Unlock()
	if none || !h.server.binding.TryLock() {
		return
	}
	defer h.server.binding.Unlock()
	var due []*loss
	r.mu.Lock()
	for name, lost := range r.ward.lost {
		switch {
		case r.listeners[name] != nil:
			delete(r.ward.lost, name) // somebody has bound it
		case !time.Now().Before(lost.next):
			lost.again()
			due = append(due, lost)
		}
	}
	r.mu.Unlock()
	for _, lost := range due {
		sock, _, err := socket.Reopen(lost.listener.socket)
		if err != nil {
			continue
		}
		h.server.keepSockets([]*socket.Socket{sock})
		h.server.locked(func() {
			name := sock.Spec().Name
			delete(r.ward.lost, name)
			r.insert([]*socket.Socket{sock})
			r.succeed(lost.listener, r.listeners[name], lost.what, nil)
		})
	}
}
