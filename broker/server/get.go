//go:build linux

package server

import (
	"errors"
	"fmt"
	"os"

	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// get answers Get: it hands out sockets, now or when they are to be had, and with
// "more" keeps the grant until the connection ends.
func (s *session) get(c protocol.Call) error {
	if c.Oneway {
		return nil // there is no reply for the sockets to come with
	}
	if q := s.asked; q != nil {
		s.asked, s.waited = nil, true
		return s.answerGet(c, q)
	}
	q, wait, err := s.request(c)
	if err != nil {
		s.refuse(c.Method, err)
		return s.replyError(c, err)
	}
	defer func() {
		if q.process != nil && q.process.pidfd != nil { // no grant has taken it
			_ = q.process.pidfd.Close()
		}
	}()
	if err := s.ask(q, wait); err != nil {
		return err
	}
	return s.answerGet(c, q)
}

// answerGet answers c, which q was decided for.
func (s *session) answerGet(c protocol.Call, q *request) error {
	if errors.Is(q.err, errStopping) {
		return errStopping
	}
	if q.err != nil {
		s.showHolders(q.err)
		s.refuse(c.Method, q.err)
		return s.replyError(c, q.err)
	}
	if err := s.hand(c, q); err != nil {
		s.server.locked(func() { s.server.registry.cancel(q) })
		if errors.Is(err, os.ErrClosed) {
			return s.get(c) // unbound meanwhile, or its name has another socket now
		}
		return s.handFailed(c, err)
	}
	if !c.More {
		return nil
	}
	return s.hold(c, q.grant)
}

// request makes the request that c asks for. It leaves the process behind a grant
// for the caller to close.
func (s *session) request(c protocol.Call) (q *request, wait bool, err error) {
	var p protocol.GetParameters
	if err := protocol.DecodeParameters(c.Parameters, &p); err != nil {
		return nil, false, err
	}
	if err := s.checkNames(p.Names); err != nil {
		return nil, false, err
	}
	if q, err = s.client.request(&p, s, c.More); err != nil {
		return nil, false, err
	}
	if c.More || s.peer.pid == 0 {
		return q, p.Wait, nil
	}
	proc, err := processOf(s.rc, s.peer, s.server.registry.lifetimes.pidfs)
	if err != nil {
		return nil, false, fmt.Errorf("cannot follow pid %d: %w", s.peer.pid, err)
	}
	if exited(proc.pidfd) {
		// Whoever speaks here has the connection from it. A grant would end at
		// once, and leave a holder that nobody knows of.
		_ = proc.pidfd.Close()
		return nil, false, fmt.Errorf("pid %d, which made this connection, has ended: connect anew", s.peer.pid)
	}
	q.process = &proc
	return q, p.Wait, nil
}

// checkNames checks the names of a call: some, not too many, none twice.
func (c *client) checkNames(names []string) error {
	most := c.server.cfg.MaxNamesInCall
	switch {
	case len(names) == 0:
		return &protocol.InvalidParameterError{Parameter: "names"}
	case len(names) > most:
		return &protocol.LimitError{Limit: "names in one call", Max: most}
	case len(names) == 1:
		return nil
	}
	seen := make(map[string]bool, len(names))
	for _, name := range names {
		if seen[name] {
			return &protocol.InvalidParameterError{Parameter: "names"}
		}
		seen[name] = true
	}
	return nil
}

// ask gets q decided, however long that takes. An error ends the session.
func (s *session) ask(q *request, wait bool) error {
	r := s.server.registry
	decided := false
	s.server.locked(func() {
		r.ask(q, wait)
		decided = q.decided
	})
	if decided {
		return nil
	}
	err := s.park(func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return q.decided
	})
	if err != nil {
		s.server.locked(func() { r.cancel(q) })
	}
	return err
}

// hand sends the sockets of q.
func (s *session) hand(c protocol.Call, q *request) error {
	reply := protocol.GetReply{Grant: q.grant.id, Sockets: make([]protocol.Socket, len(q.sockets))}
	fds := make([]*scmrights.FD, len(q.sockets))
	for i, sock := range q.sockets {
		reply.Sockets[i] = protocol.Socket{Name: q.names[i], Network: sock.Network(), Address: sock.Address(), FileDescriptor: i}
		fds[i] = sock.FD()
	}
	return s.reply(c, reply, c.More, fds...)
}

// handFailed turns what went wrong with sending descriptors into an error reply,
// where nothing of the reply has been sent.
func (s *session) handFailed(c protocol.Call, err error) error {
	if !errors.Is(err, unix.ETOOMANYREFS) {
		return err
	}
	err = &protocol.LimitError{Limit: "descriptors that other clients have not read yet"}
	s.refuse(c.Method, err)
	return s.replyError(c, err)
}

// hold keeps g until the connection ends, and sends its client what becomes of it.
func (s *session) hold(c protocol.Call, g *grant) error {
	event, err := "", error(nil)
	for event != protocol.EventUnbound && err == nil {
		if event != "" {
			err = s.reply(c, protocol.GetReply{Grant: g.id, Event: event}, true)
		}
		if err == nil {
			event, err = s.eventOf(g)
		}
	}
	why := endDisconnected
	if errors.Is(err, errStopping) {
		why = endStop
	}
	s.server.locked(func() { s.server.registry.end(g, why) })
	if err != nil {
		return err
	}
	return s.reply(c, protocol.GetReply{Grant: g.id, Event: event}, false)
}

// eventOf waits for what becomes of g, which it is told once.
func (s *session) eventOf(g *grant) (event string, err error) {
	r := s.server.registry
	err = s.park(func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		event = g.takeEvent()
		return event != ""
	})
	return event, err
}
