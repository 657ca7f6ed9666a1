//go:build linux

package server

import (
	"strconv"
	"strings"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/scmrights"
)

// Store keeps descriptors while no broker runs, and passes them to the next one (see
// [Server.Restore]). Its methods may be called concurrently.
type Store interface {
	// Keep adds a duplicate of fd, which it borrows, by that name.
	Keep(name string, fd *scmrights.FD) error
	// Forget closes what has that name.
	Forget(name string) error
}

// The names of descriptors in the store. None can be a listener's.
const (
	storedPrefix  = "@"
	storedControl = "@control"
	storedState   = "@state" // and what makes it unlike those of other brokers
)

// storedSocket is the name in the store of the socket that has the token. It is short,
// since all names together have to fit into one environment variable.
func storedSocket(token uint32) string {
	return storedPrefix + strings.ToUpper(strconv.FormatUint(uint64(token), 36))
}

// tokenOf returns the token of a socket's name in the store.
func tokenOf(name string) (token uint32, ok bool) {
	text := strings.TrimPrefix(name, storedPrefix)
	n, err := strconv.ParseUint(strings.ToLower(text), 36, 32)
	return uint32(n), err == nil && text == strings.ToUpper(text)
}

// keep adds something to the store. That it cannot be kept is no reason not to have it.
func (s *Server) keep(name string, fd *scmrights.FD) {
	if s.cfg.Store == nil {
		return
	}
	if err := s.cfg.Store.Keep(name, fd); err != nil {
		s.log.Error().Err(err).Str("stored", name).Msg("cannot be stored: it would not outlive this broker")
	}
}

// unkeep takes something out of the store.
func (s *Server) unkeep(name string) {
	if s.cfg.Store == nil {
		return
	}
	if err := s.cfg.Store.Forget(name); err != nil {
		s.log.Warn().Err(err).Str("stored", name).Msg("cannot be taken out of the store")
	}
}

// keepSockets adds sockets to the store, which they have to be in before anybody can
// get them. The server's binding is held.
func (s *Server) keepSockets(sockets []*socket.Socket) {
	r := s.registry
	r.mu.Lock()
	for _, sock := range sockets {
		if sock.Token == 0 {
			r.lastToken++
			sock.Token = r.lastToken
		}
	}
	r.mu.Unlock()
	for _, sock := range sockets {
		s.keep(storedSocket(sock.Token), sock.FD()) // which only changes with the binding held
	}
}

// unkeepSocket takes a socket that is no listener's, or no longer, out of the store.
func (s *Server) unkeepSocket(sock *socket.Socket) {
	r := s.registry
	r.mu.Lock()
	token := sock.Token
	sock.Token = 0
	r.mu.Unlock()
	if token != 0 {
		s.unkeep(storedSocket(token))
	}
}

// insert makes sockets listeners' that can be had. It takes them.
func (s *Server) insert(sockets []*socket.Socket) {
	s.keepSockets(sockets)
	s.locked(func() { s.registry.insert(sockets) })
}

// saveListener writes l to the state, in place of what that says of it.
func (r *registry) saveListener(l *listener) {
	spec := l.socket.Spec()
	v := savedListener{serial: r.state.next(), cookie: l.socket.Cookie(), token: l.socket.Token, spec: spec.String()}
	v.file.dev, v.file.ino = l.socket.File()
	v.sent = l.sentAway()
	for bit, set := range map[uint32]bool{savedConfigured: l.configured, savedAdopted: l.socket.Adopted(), savedBlocking: l.blocking} {
		if set {
			v.flags |= bit
		}
	}
	r.state.scratch = v.append(r.state.scratch[:0])
	l.record = int32(r.state.replace(int(l.record), kindListener)) // stateMost is less
}

// saveGrant writes g to the state, in place of what that says of it.
func (r *registry) saveGrant(g *grant) {
	v := savedGrant{serial: r.state.next(), id: g.id, since: g.since.UnixMicro(), process: g.process, peer: g.peer, generation: g.generation, signal: uint32(g.signal)}
	if g.more {
		v.flags |= savedMore
	}
	if g.draining {
		v.flags |= savedDraining
	}
	if g.found {
		v.flags |= savedFound
	}
	var few [8]uint32
	v.tokens = few[:0]
	for _, l := range g.listeners {
		v.tokens = append(v.tokens, l.socket.Token)
	}
	r.state.scratch = v.append(r.state.scratch[:0])
	g.record = r.state.replace(g.record, kindGrant)
}

// next returns the serial of the next record.
func (s *state) next() uint64 {
	s.serial++
	return s.serial
}

// replace writes what is in scratch in place of the record at at, 0 being none, and
// returns where it is now. Where there is no room the old one stays: it is better than none.
func (s *state) replace(at int, k kind) int {
	now := s.add(k, s.scratch)
	if now == 0 {
		return at
	}
	s.drop(at)
	return now
}
