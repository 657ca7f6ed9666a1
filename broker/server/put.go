//go:build linux

package server

import (
	"errors"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// Donation is a descriptor that somebody has made elsewhere, and what is to become
// of it.
type Donation struct {
	Name    string
	Options string // as they stand in a spec behind the address
	// Any takes any descriptor; without it, it must be a socket that is bound and, where
	// it takes connections, listens.
	Any bool
	// PID is the id of a process that is to be known as its holder, if it can be seen to
	// have the socket open; 0: none.
	PID int
	// DrainSignal asks that process to leave; 0: nothing does.
	DrainSignal unix.Signal
	FD          *scmrights.FD
}

// Put takes d.FD and makes it the socket of a listener, which is not of the
// configuration. Where the very same socket has the name already, with the same
// options, nothing changes. The error is a *[protocol.BindFailedError], a
// *[protocol.NameInUseError] or a *[protocol.LimitError], or, after Close, [ErrClosed].
func (s *Server) Put(d Donation) error {
	sock, err := d.adopt()
	if err != nil {
		f := protocol.BindFailure{Spec: d.Name, Message: "cannot put " + err.Error()}
		return &protocol.BindFailedError{Failures: []protocol.BindFailure{f}}
	}
	s.binding.Lock()
	err = s.insertPut(sock)
	s.binding.Unlock() // closing a donated descriptor may take long
	if err != nil {
		_ = sock.Close() // err is what to tell
	}
	if err != nil && !errors.Is(err, errPutAgain) {
		return err
	}
	if d.PID != 0 && !s.found(d.PID, d.Name, d.DrainSignal, func(sock *socket.Socket) bool { return sock.HeldBy(d.PID) }) {
		s.log.Warn().Str("name", d.Name).Int("pid", d.PID).Msg("cannot see that this process has the socket: it is not known as a holder")
	}
	s.counted()
	return nil
}

// errPutAgain says that a listener has the very socket already.
var errPutAgain = errors.New("put again")

func (d Donation) adopt() (*socket.Socket, error) {
	if d.Any {
		return socket.AdoptAny(d.Name, d.Options, d.FD)
	}
	return socket.AdoptDonated(d.Name, d.Options, d.FD)
}

// insertPut makes sock, which it takes if it succeeds, a listener.
func (s *Server) insertPut(sock *socket.Socket) error {
	spec := sock.Spec()
	if err := s.mayPut(spec.Name, sock); err != nil {
		return err
	}
	s.insert([]*socket.Socket{sock})
	return nil
}

// mayPut returns an error where the name cannot be had by sock; nil is one that is not
// known yet.
func (s *Server) mayPut(name string, sock *socket.Socket) error {
	r := s.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over() {
		return ErrClosed
	}
	if l := r.listeners[name]; l != nil {
		is := l.socket.Spec()
		if sock != nil && sock.Cookie() != 0 && sock.Cookie() == l.socket.Cookie() && is.Equal(sock.Spec()) {
			return errPutAgain
		}
		if sock != nil || l.socket.Cookie() == 0 { // else it may turn out to be the same one
			return &protocol.NameInUseError{Name: name, Spec: is.String()}
		}
		return nil
	}
	if len(r.listeners) >= s.cfg.MaxNames {
		return &protocol.LimitError{Limit: "names", Max: s.cfg.MaxNames}
	}
	return nil
}

// put answers Put.
func (s *session) put(c protocol.Call, fds []*scmrights.FD) (any, error) {
	if !s.privileged() {
		return nil, &protocol.PermissionDeniedError{}
	}
	var p protocol.PutParameters
	if err := protocol.DecodeParameters(c.Parameters, &p); err != nil {
		return nil, err
	}
	signal, err := signalNamed(p.DrainSignal)
	if err != nil {
		return nil, err
	}
	fd, err := brought(p.FileDescriptor, fds)
	if err != nil {
		return nil, err
	}
	if fd == nil {
		return s.mayBring(p)
	}
	if err := s.server.Put(Donation{Name: p.Name, Options: p.Options, Any: p.Any, PID: p.PID, DrainSignal: signal, FD: fd}); err != nil {
		return nil, err
	}
	l := s.server.log.Info().Str("name", p.Name)
	s.peer.addTo(l)
	l.Msg("put")
	var reply protocol.PutReply
	if now := s.server.describe([]string{p.Name}); len(now) > 0 {
		reply.Listener = &now[0]
	}
	return reply, nil
}

// mayBring answers who asks whether a descriptor may be sent.
func (s *session) mayBring(p protocol.PutParameters) (any, error) {
	if err := socket.CheckDonation(p.Name, p.Options, p.Any); err != nil {
		f := protocol.BindFailure{Spec: p.Name, Message: "cannot put " + err.Error()}
		return nil, &protocol.BindFailedError{Failures: []protocol.BindFailure{f}}
	}
	if err := s.server.mayPut(p.Name, nil); err != nil {
		return nil, err
	}
	s.invite()
	return protocol.PutReply{}, nil
}
