package registry

import (
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server/peer"
	"github.com/fdbroker/fdbroker/broker/socket"
)

// Discover records that a process, which has not asked, holds the socket of a listener, if holds says
// that it does; that may read /proc, and is called without the lock. Drain is the signal that asks the
// process to leave; 0: nothing does. Discover reports whether the grant is recorded.
func (r *Registry) Discover(pid int, name string, drain unix.Signal, holds func(*socket.Socket) bool) bool {
	proc, p, err := peer.WithPID(pid)
	if err != nil {
		return false
	}
	q := &Request{Names: []string{name}, DrainSignal: drain, since: time.Now(), process: proc, discovered: true, Caller: &Caller{Peer: p}}
	e, bound := r.Lookup(name)
	held := bound && holds(e.Socket) && !peer.Exited(proc.FD) // it is the process that was looked at
	r.do(func() {
		err = os.ErrClosed
		if l := r.listeners[name]; held && l != nil && l.Socket == e.Socket {
			err = nil
			if own := r.grantOf(q); !own.holds(l) {
				err = r.grant(q, own, []*listener{l})
			}
		}
		q.decide(err)
	})
	return err == nil
}
