//go:build linux

package server

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// Takeover is what a Restore has found.
type Takeover struct {
	// Restarted says that this is not the first broker, and Why what became of the one before.
	Restarted bool
	Why       string
	// Control is for [ControlConfig]; nil where there is none.
	Control *RestoredControl
	// Listeners and Grants are how many there are again.
	Listeners, Grants int
}

// RestoredControl is the control socket of an earlier broker.
type RestoredControl struct {
	fd    *scmrights.FD
	saved savedControl // of which the zero value says nothing
}

// IsStored reports whether a descriptor of that name is one that a [Store] was given.
func IsStored(name string) bool { return strings.HasPrefix(name, storedPrefix) }

// Restore takes what the store of an earlier broker has kept, and makes of it what it
// was: listeners, and grants of the processes that still live. It is called once, before
// anything is bound, also where nothing was kept. What is of no use is taken out of the
// store.
func (s *Server) Restore(stored []Passed) Takeover {
	s.binding.Lock()
	defer s.binding.Unlock()
	var t Takeover
	var control *scmrights.FD
	sockets := make(map[uint32]*scmrights.FD)
	var states []Passed
	for _, p := range stored {
		t.Restarted = true
		token, isSocket := tokenOf(p.Name)
		switch {
		case p.Name == storedControl && control == nil:
			control = p.FD
		case strings.HasPrefix(p.Name, storedState):
			states = append(states, p)
		case isSocket && sockets[token] == nil:
			sockets[token] = p.FD
		default:
			_ = p.FD.Close()
			s.unkeep(p.Name)
		}
	}
	was := s.takeState(states)
	if t.Restarted {
		s.takeover(&t, was, sockets)
	}
	if control != nil {
		t.Control = &RestoredControl{control, was.control}
	}
	return t
}

// takeState goes on with the state of the earlier broker, if one of states is that, and
// otherwise begins a new one.
func (s *Server) takeState(states []Passed) saved {
	r := s.registry
	v, kept := saved{}, ""
	for _, p := range states {
		if kept != "" {
			_ = p.FD.Close()
			continue
		}
		st, err := openState(p.FD)
		if err != nil {
			s.log.Error().Err(err).Str("stored", p.Name).Msg("the state of the broker before cannot be read")
			continue
		}
		records, err := st.scan()
		was, rerr := st.read(records)
		if err != nil || rerr != nil {
			// What could be read holds. It goes on in a new file, where all is well.
			s.log.Error().AnErr("scan", err).AnErr("records", rerr).Msg("the state of the broker before is damaged")
			was.at, was.superseded, was.controlAt = make(map[any]int), nil, 0
			r.state.serial = st.serial
			st.close()
			v = was
			continue
		}
		r.state.close()
		r.state, v, kept = st, was, p.Name
		for _, at := range v.superseded {
			st.drop(at)
		}
	}
	if kept == "" {
		kept = storedState + "." + strconv.FormatUint(inodeOf(r.state.file), 16)
		s.keep(kept, r.state.file)
	}
	s.stateName = kept
	for _, p := range states {
		if p.Name != kept {
			s.unkeep(p.Name)
		}
	}
	return v
}

// takeover makes of what was saved what it was.
func (s *Server) takeover(t *Takeover, was saved, sockets map[uint32]*scmrights.FD) {
	r := s.registry
	t.Why = whyEnded(was.ending, was.process)
	s.locked(func() {
		r.lastID = max(r.lastID, was.lastID)
		r.state.set(atLastID, uint64(r.lastID))
		for token := range sockets {
			r.lastToken = max(r.lastToken, token)
		}
		for token := range was.listeners {
			r.lastToken = max(r.lastToken, token)
		}
	})
	restored := make(map[uint32]*listener)
	for _, token := range slices.Sorted(maps.Keys(was.listeners)) {
		if l := s.restoreListener(was.listeners[token], was.at[token], sockets[token]); l != nil {
			restored[token] = l
			delete(sockets, token)
		} else {
			r.mu.Lock()
			r.state.drop(was.at[token])
			r.mu.Unlock()
		}
	}
	for token, fd := range sockets { // nothing says what it was: see orphan
		if fd.Control(func(uintptr) {}) != nil {
			continue // closed
		}
		s.orphans = append(s.orphans, Passed{storedSocket(token), fd})
	}
	for _, id := range slices.Sorted(maps.Keys(was.grants)) {
		if s.restoreGrant(was.grants[id], was.at[id], restored) {
			t.Grants++
		} else {
			r.mu.Lock()
			r.state.drop(was.at[id])
			r.mu.Unlock()
		}
	}
	s.locked(func() {
		for _, l := range restored {
			r.restore(l)
		}
		r.finishDrains()
		if was.controlAt != 0 {
			s.controlRecord = was.controlAt
		}
	})
	t.Listeners = len(restored)
	s.taken = takenOver{at: time.Now(), why: t.Why}
	s.expireKept()
}

// finishDrains asks those to leave who were sent away by a drain that the broker before
// had not finished.
func (r *registry) finishDrains() {
	for _, g := range r.grants {
		if slices.ContainsFunc(g.listeners, func(l *listener) bool { return l.sentAway().covers(g.peer.uid, g.generation) }) {
			r.askToLeave(g)
		}
	}
}

// restoreListener makes fd, which it takes if it succeeds, the socket of the listener
// that it was. Fd is nil where the store has none.
func (s *Server) restoreListener(v *savedListener, at int, fd *scmrights.FD) *listener {
	name, _, _ := strings.Cut(v.spec, "=")
	log := s.log.With().Str("name", name).Logger()
	if fd == nil {
		// One of the configuration, or one that somebody passes again, comes back by itself.
		if v.flags&(savedConfigured|savedAdopted) == 0 {
			s.reopen(v.spec)
		}
		return nil
	}
	var sock *socket.Socket
	err := socket.CheckName(name)
	if err == nil {
		sock, err = socket.Restore(v.spec, fd, socket.Saved{
			Cookie: v.cookie, Adopted: v.flags&savedAdopted != 0, Dev: v.file.dev, Ino: v.file.ino,
		})
	}
	if err != nil {
		log.Error().Err(err).Str("spec", v.spec).Msg("a socket cannot be this listener's again")
		if v.flags&(savedConfigured|savedAdopted) == 0 {
			_ = fd.Close()
			s.unkeep(storedSocket(v.token))
			s.reopen(v.spec)
		}
		return nil
	}
	r := s.registry
	l := &listener{socket: sock, configured: v.flags&savedConfigured != 0, blocking: v.flags&savedBlocking != 0, record: int32(at)}
	if v.sent.all != 0 || len(v.sent.of) > 0 {
		l.history().sent = v.sent
	}
	_ = sock.SetBlocking(l.blocking) // systemd sets what it passes as NonBlocking= says
	s.locked(func() {
		sock.Token = v.token
		r.listeners[name] = l
		r.ward.admit(l)
		if at == 0 {
			r.saveListener(l)
		}
		r.note(event{what: "restored", name: name, socket: sock})
	})
	return l
}

// reopen binds a listener again whose socket was lost.
func (s *Server) reopen(text string) {
	spec, err := socket.ParseSpec(text)
	var sock *socket.Socket
	if err == nil {
		sock, err = socket.Open(spec)
	}
	if err != nil {
		s.log.Error().Err(err).Str("spec", text).Msg("a listener is lost: its socket was not kept")
		return
	}
	s.insert([]*socket.Socket{sock})
}

// restoreGrant makes the grant what it was, if its process lives. It reports whether it
// is there again.
func (s *Server) restoreGrant(v *savedGrant, at int, restored map[uint32]*listener) bool {
	var listeners []*listener
	for _, token := range v.tokens {
		if l := restored[token]; l != nil {
			listeners = append(listeners, l)
		}
	}
	if len(listeners) == 0 || v.peer.pid == 0 {
		return false
	}
	r := s.registry
	proc, p, err := processWith(v.peer.pid, r.lifetimes.pidfs)
	if err != nil {
		return false
	}
	more := v.flags&savedMore != 0
	known := v.process != processID{} // without, that the pid is the same user's has to do
	if exited(proc.pidfd) || known && proc.id != v.process || !known && (!more || p.uid != v.peer.uid) {
		_ = proc.pidfd.Close()
		return false
	}
	g := &grant{
		id: v.id, peer: v.peer, since: time.UnixMicro(v.since), pidfd: proc.pidfd, process: v.process,
		more: more, kept: !known, record: at,
		generation: v.generation, signal: unix.Signal(v.signal), draining: v.flags&savedDraining != 0, found: v.flags&savedFound != 0,
	}
	if g.kept && g.draining {
		g.event = protocol.EventDrain // its client may not have been told
	}
	s.locked(func() {
		if r.grants[g.id] != nil || known && r.processes[g.process] != nil || r.lifetimes.add(g.id, g.pidfd) != nil {
			_ = g.pidfd.Close()
			g = nil
			return
		}
		r.enter(g)
		for _, l := range listeners {
			g.listeners = append(g.listeners, l)
			r.addHolder(l, g)
		}
		if at == 0 || len(listeners) != len(v.tokens) {
			r.saveGrant(g)
		}
	})
	return g != nil
}

// retakeOrphan returns a socket of an earlier broker that is bound to the address of spec,
// and of which nothing else is known; nil where there is none. The caller must close it.
func (s *Server) retakeOrphan(spec socket.Spec) *socket.Socket {
	for i, p := range s.orphans {
		if !socket.IsAt(spec, p.FD) {
			continue
		}
		s.orphans = slices.Delete(s.orphans, i, i+1)
		s.unkeep(p.Name) // it will have another name there
		sock, err := socket.Retake(spec, p.FD)
		if err != nil {
			s.log.Warn().Err(err).Str("name", spec.Name).Msg("a socket of the broker before is of no use")
			return nil
		}
		return sock
	}
	return nil
}

// dropOrphans closes the sockets that are nobody's.
func (s *Server) dropOrphans() {
	for _, p := range s.orphans {
		s.log.Warn().Str("stored", p.Name).Msg("a socket of the broker before is no listener's: closed")
		_ = p.FD.Close()
		s.unkeep(p.Name)
	}
	s.orphans = nil
}
