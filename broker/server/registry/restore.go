package registry

import (
	"cmp"
	"errors"
	"maps"
	"slices"

	"github.com/fdbroker/fdbroker/broker/server/journal"
	"github.com/fdbroker/fdbroker/broker/server/peer"
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/internal/kernel"
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
		l := &listener{Listener: Listener{sock, v.Token, v.Configured, v.Unstored}, blocking: v.Blocking, used: true, unseen: int32(v.Unseen), fence: fence{v.Fence.All, v.Fence.Of}}
		r.enroll(l)
		if l.inUnseenUse() {
			r.cfg.Health.Held(l.Socket)
		}
		r.saveListener(l)
		r.noteListener(EventRestored, l)
	})
}

// RestoreGrants makes grants of what an earlier broker has saved, of the listeners that were restored, as far
// as their processes live, and returns how many. It also resets the mode of listeners that nobody uses, and
// goes on with drains that the earlier broker had begun.
func (r *Registry) RestoreGrants(saved map[int64]*journal.Grant) (restored int) {
	r.do(func() {
		byToken := make(map[uint32]*listener)
		for _, l := range r.listeners {
			byToken[l.Token] = l
		}
		for _, l := range r.stale {
			byToken[l.Token] = l
		}
		lost := make(map[string][]int) // pids, by the reason
		for _, id := range slices.Sorted(maps.Keys(saved)) {
			v := saved[id]
			err := r.restoreGrant(v, byToken)
			if err == nil {
				restored++
				continue
			}
			r.journal.RemoveGrant(v.ID)
			why := cmp.Or(kernel.Explain(err), err.Error())
			lost[why] = append(lost[why], v.Peer.PID)
		}
		for _, why := range slices.Sorted(maps.Keys(lost)) {
			r.note(Event{What: EventLost, Why: why, PIDs: lost[why]})
		}
		for _, l := range r.listeners {
			r.resetMode(l)
		}
		r.finishDrains()
	})
	return restored
}

// Reasons why a grant is not restored, besides [peer.ErrExited] and that a process cannot be looked at.
var (
	errUnseen  = errors.New("the process is in another pid namespace")
	errNoName  = errors.New("its listeners are not restored")
	errTwice   = errors.New("the process has another grant")
	errNoStart = errors.New("cannot read when the process started")
)

// restoreGrant makes v a grant again, if its process lives.
func (r *Registry) restoreGrant(v *journal.Grant, byToken map[uint32]*listener) error {
	var listeners []*listener
	for _, token := range v.Tokens {
		if l := byToken[token]; l != nil {
			listeners = append(listeners, l)
		}
	}
	switch {
	case len(listeners) == 0:
		return errNoName
	case r.grants[v.ID] != nil:
		return errTwice
	}
	proc, err := processOf(v)
	if err != nil {
		if !errors.Is(err, peer.ErrExited) {
			r.loseSaved(v, listeners)
		}
		return err
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
		return errTwice
	}
	if err := r.cfg.Exits.Add(g.id, proc.FD); err != nil {
		_ = proc.FD.Close()
		r.loseSaved(v, listeners)
		return err
	}
	r.enter(g)
	for _, l := range listeners {
		r.hold(g, l)
	}
	r.saveGrant(g)
	return nil
}

// processOf returns the process of a saved grant. If the grant lasts as long as a connection, the same user's process
// with that pid has to do, and if /proc hides it, any: a client that reclaims the grant proves that it is the user's. The
// caller must close its FD. The error is [peer.ErrExited] if the process has exited; any other says that the process
// cannot be followed.
func processOf(v *journal.Grant) (proc peer.Process, err error) {
	if v.Peer.PID == 0 {
		return proc, errUnseen
	}
	if proc, err = peer.OfPID(v.Peer.PID); err != nil {
		return proc, err
	}
	err = differs(v, proc)
	if err == nil && peer.Exited(proc.FD) { // since the pid was looked up
		err = peer.ErrExited
	}
	if err != nil {
		_ = proc.FD.Close()
	}
	return proc, err
}

// differs returns why the process that has the pid of v now is not that of v.
func differs(v *journal.Grant, now peer.Process) error {
	uid, known := v.Peer.UID, false
	if v.Process == (peer.ID{}) {
		uid, known = peer.OwnerOf(v.Peer.PID)
	}
	switch {
	case v.Process != peer.ID{} && now.ID.Continues(v.Process):
		return nil
	case v.Process != peer.ID{} && now.ID.Inode == 0 && now.ID.Start == 0:
		return errNoStart
	case v.Process != peer.ID{}, known && uid != v.Peer.UID:
		return peer.ErrExited
	case !v.More:
		return peer.ErrUnfollowed // the broker before could not either
	}
	return nil
}
