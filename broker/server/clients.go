//go:build linux

package server

import (
	"sync"
	"time"

	"github.com/fdbroker/fdbroker/protocol"
)

// keptPart is which part of all clients there may be, one in so many, only root and the
// broker's user may be: others, however many users they are, do not keep them out.
const keptPart = 16

// admit counts c in, or says which limit is reached.
func (s *Server) admit(c *client) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	most := s.cfg.MaxClients
	if !c.privileged() {
		most -= most / keptPart
	}
	if s.present >= most {
		return &protocol.LimitError{Limit: "clients", Max: most}
	}
	if !c.privileged() && s.clients[c.peer.uid] >= s.cfg.MaxClientsPerUID {
		return &protocol.LimitError{Limit: "clients of one user", Max: s.cfg.MaxClientsPerUID}
	}
	s.present++
	s.clients[c.peer.uid]++
	return nil
}

// dismiss counts c out.
func (s *Server) dismiss(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.present--
	if s.clients[c.peer.uid]--; s.clients[c.peer.uid] == 0 {
		delete(s.clients, c.peer.uid)
	}
}

// enter notes a session, and exit closes its connection and forgets it.
func (s *Server) enter(ses *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[ses] = struct{}{}
}

func (s *Server) exit(ses *session) {
	ses.hangUp()
	s.mu.Lock()
	delete(s.sessions, ses)
	s.mu.Unlock()
	s.dismiss(&ses.client)
}

// stopSessions wakes the sessions, which then end by themselves, and after a
// while closes what is left of them. Those that do not end then either are blocked in the
// kernel by what their peers have sent: they are left behind, and change nothing any more.
func (s *Server) stopSessions(running *sync.WaitGroup) {
	all := func(f func(*session)) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for ses := range s.sessions {
			f(ses)
		}
	}
	all((*session).interrupt)
	ended := make(chan struct{})
	go func() {
		running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return
	case <-time.After(stopLimit):
	}
	all(func(ses *session) { go ses.sever(s.desk.wakeup) })
	select {
	case <-ended:
	case <-time.After(stopLimit):
		s.leaveBehind()
	}
}

// leaveBehind makes the sessions that have not ended change nothing any more. It waits for
// a change that is under way.
func (s *Server) leaveBehind() {
	s.binding.Lock()
	defer s.binding.Unlock()
	s.registry.mu.Lock()
	s.registry.left = true
	s.registry.mu.Unlock()
	s.mu.Lock()
	n := len(s.sessions)
	s.mu.Unlock()
	s.log.Warn().Int("count", n).Msg("not waiting for clients that do not let go of their connections")
}
