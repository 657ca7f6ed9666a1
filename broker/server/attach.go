//go:build linux

package server

import (
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// attach answers Attach: it takes back a socket that an earlier broker had opened,
// from one of those who may have it.
func (s *session) attach(c protocol.Call, fds []*scmrights.FD) (any, error) {
	var p protocol.AttachParameters
	if err := protocol.DecodeParameters(c.Parameters, &p); err != nil {
		return nil, err
	}
	spec, err := s.server.awaited(p.Name)
	if spec.Options != nil && !s.may(spec.Options) {
		return nil, &protocol.DeniedError{Name: p.Name, UID: s.peer.uid, Allow: allowed(spec.Options)}
	}
	if err != nil {
		return nil, err
	}
	reply := protocol.AttachReply{Network: spec.Network, Address: spec.Address}
	fd, err := brought(p.FileDescriptor, fds)
	if err != nil {
		return nil, err
	}
	if fd == nil {
		s.server.registry.inviteFor(p.Name, s.invite())
		return reply, nil
	}
	if err := s.server.giveBack(spec, fd); err != nil {
		return nil, err
	}
	l := s.server.log.Warn().Str("name", p.Name).Str("command", command(s.peer.pid))
	s.peer.addTo(l)
	l.Msg("given back by a process that an earlier broker gave it to")
	return reply, nil
}

// awaited returns the spec of a name, and an error unless it is pending.
func (s *Server) awaited(name string) (socket.Spec, error) {
	r := s.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over() {
		return socket.Spec{}, ErrClosed
	}
	if u := r.pending[name]; u != nil {
		return u.spec, nil
	}
	if l := r.listeners[name]; l != nil {
		return l.socket.Spec(), &protocol.NameInUseError{Name: name, Spec: l.socket.Spec().String()}
	}
	return socket.Spec{}, &protocol.UnknownNameError{Name: name}
}

// giveBack takes fd and makes it the socket of a spec that is pending.
func (s *Server) giveBack(spec socket.Spec, fd *scmrights.FD) error {
	sock, err := socket.Retake(spec, fd) // may have to resolve a host's name
	if err != nil {
		return &protocol.BindFailedError{Failures: []protocol.BindFailure{failureOf(spec, err)}}
	}
	s.binding.Lock()
	defer s.binding.Unlock()
	if _, err = s.awaited(spec.Name); err != nil {
		_ = sock.Release()
		return err
	}
	s.keepSockets([]*socket.Socket{sock})
	s.locked(func() {
		s.registry.insert([]*socket.Socket{sock})
		l := s.registry.listeners[spec.Name]
		l.configured = true
		s.registry.saveListener(l)
	})
	s.counted()
	return nil
}
