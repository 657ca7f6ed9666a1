//go:build linux

package server

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/scmrights"
)

// found records that a process, which has never asked, holds a listener's socket, if
// holds says that it does. It returns whether it is recorded. Drain is the signal that
// asks it to leave; 0: nothing does.
func (s *Server) found(pid int, name string, drain unix.Signal, holds func(*socket.Socket) bool) bool {
	proc, p, err := processWith(pid, s.registry.lifetimes.pidfs)
	if err != nil {
		return false
	}
	r := s.registry
	q := &request{names: []string{name}, since: time.Now(), process: &proc, found: true, drainSignal: drain, client: &client{server: s, peer: p}}
	defer func() {
		if q.process.pidfd != nil { // no grant has taken it
			_ = q.process.pidfd.Close()
		}
	}()
	r.mu.Lock()
	l := r.listeners[name]
	r.mu.Unlock()
	if l == nil || !holds(l.socket) || exited(proc.pidfd) { // it is the process that was looked at
		return false
	}
	s.locked(func() {
		if r.listeners[name] != l {
			err = os.ErrClosed
		} else if own := r.grantOf(q); !own.holds(l) {
			err = r.grant(q, own, []*listener{l})
		}
	})
	return err == nil
}

// foundFor returns the grant by which the process of q, whose own is to last as long as
// its connection, was found to hold names, if any.
func (r *registry) foundFor(q *request) *grant {
	if q.process != nil {
		return nil
	}
	g := r.pids[q.client.peer.pid]
	if g == nil || !g.found {
		return nil
	}
	p, err := processOf(q.client.rc, q.client.peer, r.lifetimes.pidfs)
	if err != nil {
		return nil
	}
	_ = p.pidfd.Close()
	if p.id != g.process { // its pid is that of one before it, which is gone
		return nil
	}
	return g
}

// replaceFound takes listeners, which q has been granted, from the grant that its
// process was found by: it holds them by the new one.
func (r *registry) replaceFound(q *request, listeners []*listener) {
	found := r.foundFor(q)
	if found == nil {
		return
	}
	for _, l := range listeners {
		switch {
		case !found.holds(l):
		case len(found.listeners) > 1:
			r.leave(found, l)
		default:
			r.end(found, endReplaced)
		}
	}
}

// processWith returns the process with that pid, and whose it is. The caller must
// close its pidfd.
func processWith(pid int, pidfs bool) (process, peer, error) {
	n, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return process{}, peer{}, os.NewSyscallError("pidfd_open", err)
	}
	fd := scmrights.NewFD(n)
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d", pid), &st); err != nil {
		_ = fd.Close()
		return process{}, peer{}, &os.PathError{Op: "stat", Path: fmt.Sprintf("/proc/%d", pid), Err: err}
	}
	return process{fd, idOfProcess(n, pid, pidfs)}, peer{pid, st.Uid, st.Gid}, nil
}
