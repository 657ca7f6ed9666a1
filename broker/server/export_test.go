package server

import "github.com/fdbroker/fdbroker/broker/socket/spec"

// Lose makes s a listener whose socket may be handed back, as after a start at which its address was in use
// by a process that could not be looked into.
func (s *Server) Lose(lost spec.Spec) { s.Binder.Lose(lost) }

// Roll asks the deploys of these listeners to replace their workers.
func (s *Server) Roll(names ...string) int { return s.registry.Roll(names...) }

// HoldLists makes lists for callers without privilege wait until release is called.
func (s *Server) HoldLists() (release func()) {
	s.listing <- struct{}{}
	return func() { <-s.listing }
}
