//go:build linux

package server

import (
	"slices"
	"time"

	"github.com/fdbroker/fdbroker/broker/socket"
)

// keptFor is how long the grant of a connection is kept for its client after a restart,
// so that nobody takes its places while it connects again.
const keptFor = 10 * time.Second

// enter puts g into the registry's books.
func (r *registry) enter(g *grant) {
	r.grants[g.id] = g
	if g.pidfd != nil && !g.kept {
		r.processes[g.process] = g
		r.pids[g.peer.pid] = g
		r.users[g.peer.uid]++
	}
}

// forget takes g, which follows a process, out of the books of processes.
func (r *registry) forget(g *grant) {
	if r.processes[g.process] != g {
		return // it was kept for a connection
	}
	delete(r.processes, g.process)
	if r.pids[g.peer.pid] == g {
		delete(r.pids, g.peer.pid)
	}
	if r.users[g.peer.uid]--; r.users[g.peer.uid] == 0 {
		delete(r.users, g.peer.uid)
	}
}

// resume gives q, whose client says that it had a grant of an earlier broker, that grant
// again, if it is kept for its process. It reports whether it did. What q is
// decided with has the listeners in the order in which q names them.
func (r *registry) resume(q *request) bool {
	if q.resume == 0 || r.state.frozen {
		return false
	}
	g := r.grants[q.resume]
	if g == nil || !g.kept || !q.more || g.peer.pid != q.client.peer.pid || g.peer.uid != q.client.peer.uid || exited(g.pidfd) {
		return false
	}
	sockets := make([]*socket.Socket, len(q.names))
	for i, name := range q.names {
		j := slices.IndexFunc(g.listeners, func(l *listener) bool { return l.socket.Spec().Name == name })
		if j < 0 {
			r.end(g, endDisconnected) // of what it had, this is all that is left; its places are for the new grant
			return false
		}
		sockets[i] = g.listeners[j].socket
	}
	for _, l := range slices.Clone(g.listeners) { // what its process has closed meanwhile
		if !slices.Contains(q.names, l.socket.Spec().Name) {
			r.leave(g, l)
			r.restore(l)
			r.freed = true
		}
	}
	r.lifetimes.remove(g.pidfd)
	_ = g.pidfd.Close()
	g.pidfd, g.kept, g.link = nil, false, q.link
	q.grant, q.sockets = g, sockets
	q.decide(nil)
	if g.event != "" {
		q.link.wake() // it was asked to leave while it was away
	}
	return true
}

// expireKept ends, after a while, the grants for which no client has come.
func (s *Server) expireKept() {
	r := s.registry
	any := false
	r.mu.Lock()
	for _, g := range r.grants {
		any = any || g.kept
	}
	r.mu.Unlock()
	if !any {
		return
	}
	s.watching.Go(func() {
		timer := time.NewTimer(keptFor)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-s.closing:
			return
		}
		s.locked(func() {
			for _, g := range r.grants {
				if g.kept {
					r.end(g, endDisconnected)
				}
			}
		})
	})
}
