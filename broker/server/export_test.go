//go:build linux

package server

import (
	"github.com/fdbroker/fdbroker/broker/socket"
	"golang.org/x/sys/unix"
)

// Lose makes spec one whose socket is to be given back, as after a start at which
// somebody had it who could not be looked into.
func (s *Server) Lose(spec socket.Spec) {
	s.locked(func() { s.registry.await([]*inUse{{spec: spec}}) })
}

// Taking counts the connections by which descriptors can be sent to the broker.
func (s *Server) Taking() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ses := range s.sessions {
		_ = ses.rc.Control(func(fd uintptr) {
			if on, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSRIGHTS); err == nil {
				n += on
			}
		})
	}
	return n
}

// Calm is calm.
var Calm = calm

// HoldLists makes lists for those without privilege wait until release is called.
func (s *Server) HoldLists() (release func()) {
	s.listing <- struct{}{}
	return func() { <-s.listing }
}
