package registry

import (
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server/peer"
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/internal/procfs"
)

// Discover records that a process, which has not asked, holds the socket of a listener, if holds says
// that it does; that may read /proc, and is called without the lock. Drain is the signal that asks the
// process to leave; 0: nothing does. Discover reports whether the grant is recorded.
func (r *Registry) Discover(pid int, name string, drain unix.Signal, holds func(*socket.Socket) bool) bool {
	q, err := discovered(pid, name)
	if err != nil {
		return false
	}
	q.DrainSignal = drain
	e, bound := r.Lookup(name)
	held := bound && holds(e.Socket) && !peer.Exited(q.process.FD) // it is the process that was looked at
	r.do(func() {
		if l := r.listeners[name]; !held || l == nil || l.Socket != e.Socket {
			q.decide(os.ErrClosed)
			return
		}
		r.discover(q)
	})
	return q.err == nil
}

// discovered returns a request for a process that holds a listener and has not asked. The caller must have it decided.
func discovered(pid int, name string) (*Request, error) {
	proc, p, err := peer.WithPID(pid)
	if err != nil {
		return nil, err
	}
	return &Request{Names: []string{name}, since: time.Now(), process: proc, discovered: true, Caller: &Caller{Peer: p}}, nil
}

// discover decides a request of discovered, whose listener is bound.
func (r *Registry) discover(q *Request) {
	l, own, err := r.listeners[q.Names[0]], r.grantOf(q), error(nil)
	if !own.holds(l) {
		err = r.grant(q, own, []*listener{l})
	}
	q.decide(err)
}

// Claim says that processes hold a socket that their ancestor hands back.
type Claim struct {
	By          *Caller // the ancestor
	PIDs        []int
	DrainSignal unix.Signal
	Generation  int64 // of their deploy; 0: none
}

// Claimed is the processes of a [Claim] that may be true. They become holders by [Change], or nothing by Drop.
type Claimed struct {
	by       *Caller
	requests []*Request
}

// Check looks at the processes of c, which are to hold the listener of that name. One counts if it is of the
// caller's user, or the caller is root, and if it descends from the caller. Nobody can look into such a process;
// and a user who tells lies about its own only takes places that it could have for the asking.
func (c Claim) Check(name string) (all Claimed) {
	all.by = c.By
	if len(c.PIDs) == 0 || c.By.Peer.PID == 0 {
		return all
	}
	self, err := peer.OfConn(c.By.conn, c.By.Peer) // else its pid is another process's by now
	if err != nil {
		return all
	}
	defer self.FD.Close()
	for _, pid := range slices.Compact(slices.Sorted(slices.Values(c.PIDs))) {
		q, err := discovered(pid, name)
		if err != nil {
			continue
		}
		if c.By.mayClaim(q.Caller.Peer) && procfs.Descends(pid, c.By.Peer.PID) && !peer.Exited(q.process.FD) {
			q.DrainSignal, q.Generation = c.DrainSignal, c.Generation
			all.requests = append(all.requests, q)
			continue
		}
		q.decide(os.ErrClosed)
	}
	return all
}

// PIDs returns the processes, once they are holders.
func (c Claimed) PIDs() (pids []int) {
	for _, q := range c.requests {
		if q.grant != nil {
			pids = append(pids, q.Caller.Peer.PID)
		}
	}
	return pids
}

// Drop gives up what has not become a holder. It may always be called.
func (c Claimed) Drop() {
	for _, q := range c.requests {
		if !q.decided {
			q.decide(os.ErrClosed)
		}
	}
}

// claim makes processes holders. Those of one user count for its limit.
func (r *Registry) claim(c Claimed) {
	for _, q := range c.requests {
		r.checkGeneration(q)
		if err := r.crowded(q); err != nil && !c.by.Privileged {
			q.decide(err)
			continue
		}
		r.discover(q)
	}
}
