package registry

import (
	"errors"
	"maps"
	"slices"

	"github.com/fdbroker/fdbroker/broker/server/journal"
	"github.com/fdbroker/fdbroker/broker/server/peer"
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/protocol"
)

// Continue makes the registry write to j, which it takes, and count on from what was saved. It is called
// once, before anything is bound.
func (r *Registry) Continue(j *journal.Journal, was journal.Contents) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.journal = j
	r.lastID = max(r.lastID, was.LastID)
	j.SetLastID(r.lastID)
	for token := range was.Listeners {
		r.lastToken = max(r.lastToken, token)
	}
}

// SkipToken makes new tokens greater than one that the store has.
func (r *Registry) SkipToken(token uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastToken = max(r.lastToken, token)
}

// Journal calls use with the journal, under the lock. It is nil before Continue.
func (r *Registry) Journal(use func(*journal.Journal)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	use(r.journal)
}

// RestoreListener makes sock, which it takes, the socket of the listener that v was.
func (r *Registry) RestoreListener(v *journal.Listener, sock *socket.Socket) {
	r.do(func() {
		l := &listener{Listener: Listener{sock, v.Token, v.Configured}, blocking: v.Blocking, unseen: v.Unseen, fence: fence{v.Fence.All, v.Fence.Of}}
		r.enroll(l)
		if l.inUnseenUse() {
			r.cfg.Health.Held(l.Socket)
		}
		r.saveListener(l)
		r.noteListener(EventRestored, l)
	})
}

// RestoreGrants makes grants of what an earlier broker has saved, of the listeners that were restored, as far
// as their processes live, and returns how many. It also resets the mode of listeners that nobody uses, and goes on with drains that the earlier broker had begun.
func (r *Registry) RestoreGrants(saved map[int64]*journal.Grant) (restored int) {
	r.do(func() {
		byToken := make(map[uint32]*listener)
		for _, l := range r.listeners {
			byToken[l.Token] = l
		}
		for _, id := range slices.Sorted(maps.Keys(saved)) {
			if v := saved[id]; r.restoreGrant(v, byToken) {
				restored++
			} else {
				r.journal.RemoveGrant(v.ID)
			}
		}
		for _, l := range r.listeners {
			r.resetMode(l)
		}
		r.finishDrains()
	})
	return restored
}

// restoreGrant makes v a grant again, if its process lives.
func (r *Registry) restoreGrant(v *journal.Grant, byToken map[uint32]*listener) bool {
	var listeners []*listener
	for _, token := range v.Tokens {
		if l := byToken[token]; l != nil {
			listeners = append(listeners, l)
		}
	}
	if len(listeners) == 0 || r.grants[v.ID] != nil {
		return false
	}
	proc, err := processOf(v)
	if err != nil {
		if !errors.Is(err, peer.ErrExited) {
			r.loseSaved(v, listeners)
		}
		return false
	}
	g := &Grant{
		id: v.ID, peer: v.Peer, since: v.Since, pidfd: proc.FD, process: v.Process, more: v.More, reserved: v.Process == peer.ID{},
		generation: v.Generation, signal: v.Signal, draining: v.Draining, discovered: v.Discovered,
	}
	if g.reserved && g.draining {
		g.event = protocol.EventDrain // its client may not have been told
	}
	if !g.reserved && r.processes[g.process] != nil {
		_ = proc.FD.Close()
		return false
	}
	if r.cfg.Exits.Add(g.id, proc.FD) != nil {
		_ = proc.FD.Close()
		r.loseSaved(v, listeners)
		return false
	}
	r.enter(g)
	for _, l := range listeners {
		r.hold(g, l)
	}
	r.saveGrant(g)
	return true
}

// processOf returns the process of a saved grant. If the grant lasts as long as a connection, the same user's process
// with that pid has to do. The caller must close its FD. The error is [peer.ErrExited] if the process has ended; any
// other says that the process cannot be followed.
func processOf(v *journal.Grant) (proc peer.Process, err error) {
	if v.Peer.PID == 0 {
		return proc, errUnseen
	}
	proc, p, err := peer.WithPID(v.Peer.PID)
	if err != nil {
		return proc, err
	}
	same := proc.ID == v.Process
	if v.Process == (peer.ID{}) {
		same = v.More && p.UID == v.Peer.UID
	}
	if !same || peer.Exited(proc.FD) {
		_ = proc.FD.Close()
		return proc, peer.ErrExited
	}
	return proc, nil
}

var errUnseen = errors.New("the process is in another pid namespace")
