package registry

import (
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/protocol"
)

// HealthEvent notes an event of the health monitor about the socket of a listener, with its holders.
// It does nothing if the socket is no listener's any more.
func (r *Registry) HealthEvent(what string, sock *socket.Socket, why string, err error) {
	r.do(func() {
		if l := r.listeners[sock.Name()]; l != nil && l.Socket == sock {
			r.note(Event{What: what, Name: sock.Name(), Socket: sock, Why: why, Err: err, PIDs: l.pids()})
		}
	})
}

// pids returns the processes that hold l, as many as a log line has room for.
func (l *listener) pids() []int {
	const most = 8
	var pids []int
	for _, g := range l.holders[:min(len(l.holders), most)] {
		pids = append(pids, g.peer.PID)
	}
	return pids
}

// ModeChanged notes that a holder has changed O_NONBLOCK of a socket.
func (r *Registry) ModeChanged(sock *socket.Socket) {
	r.do(func() {
		if l := r.listeners[sock.Name()]; l != nil && l.Socket == sock {
			r.noteListener(protocol.EventFlipped, l)
		}
	})
}
