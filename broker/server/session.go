//go:build linux

package server

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

const maxFDs = scmrights.MaxFDs

// errStopping ends a session because the server stops.
var errStopping = errors.New("the broker stops")

// session is one connection to the control socket. Its goroutine alone reads and
// writes it; others only wake it.
type session struct {
	client
	ctx    context.Context
	file   *os.File
	conn   *protocol.Conn
	unread bool // the peer may not have read a reply with descriptors yet
	timed  bool // a read deadline is set
	begun  bool // and it is for the message that is being received
	called bool // the first call is complete

	patient atomic.Bool // the peer may take as long as it likes to read what it is sent
	invited *invitation // of the next message to carry a descriptor, if any
	taking  bool        // there has been an invitation
	asked   *request    // the first call asks for it, and it is decided; nil: it is a new one
}

var _ link = (*session)(nil)

// newSession returns a session for c, on f, which it borrows. Already are the first
// bytes that the peer has sent.
func newSession(ctx context.Context, c client, f *os.File, already []byte) (*session, error) {
	s := &session{client: c, ctx: ctx, file: f}
	var err error
	if s.rc, err = f.SyscallConn(); err != nil {
		return nil, err
	}
	if s.conn, err = protocol.NewConn(f, s.server.cfg.MaxMessage, 0); err != nil {
		return nil, err
	}
	s.conn.Preload(already)
	return s, nil
}

// wake makes the session's goroutine look at its state again, if it waits for
// bytes. The state must have been changed before.
func (s *session) wake() { _ = s.file.SetReadDeadline(time.Unix(1, 0)) }

// interrupt is wake for a server that stops: a peer that may take as long as it likes
// does not hold that up, and nobody sends any descriptors from now on.
func (s *session) interrupt() {
	s.passRights(0)
	if s.patient.Load() {
		_ = s.file.SetWriteDeadline(time.Unix(1, 0))
	}
	s.wake()
}

func (s *session) gone() bool { return hungUp(s.rc) }

// run answers calls until the peer goes, or does what gets it disconnected. The
// first has to be complete within limit, unless that is 0.
func (s *session) run(limit time.Duration) {
	defer s.letGoUnread()
	defer s.endGrant()
	if limit > 0 {
		s.begin(limit)
	}
	s.part(s.answer())
}

// endGrant ends the grant that lasts as long as the connection, if there is one.
func (s *session) endGrant() {
	if s.grant == nil { // nobody else sets it
		return
	}
	why := endDisconnected
	if s.ctx.Err() != nil {
		why = endStop
	}
	s.server.locked(func() { s.server.registry.end(s.grant, why) })
}

func (s *session) answer() error {
	for {
		m, ok := s.conn.Next()
		if ok {
			s.called, s.begun = true, false
			if err := s.call(m); err != nil {
				return err
			}
			continue
		}
		switch {
		case s.called && !s.conn.Partial():
			if s.timed {
				s.rest()
			}
		case !s.begun:
			s.begin(s.server.cfg.CallTimeout)
		}
		if s.ctx.Err() != nil {
			return errStopping
		}
		err := s.conn.Fill()
		switch {
		case err == nil:
		case s.ctx.Err() != nil:
			return errStopping
		case errors.Is(err, os.ErrDeadlineExceeded) && !s.timed:
			s.rest() // woken for what park has seen by itself
		default:
			return err
		}
	}
}

// begin limits how long the message that is being received may take, from now.
func (s *session) begin(limit time.Duration) {
	s.timed, s.begun = true, true
	_ = s.file.SetReadDeadline(time.Now().Add(limit))
}

// rest lets reading take as long as it takes.
func (s *session) rest() {
	s.timed, s.begun = false, false
	_ = s.file.SetReadDeadline(time.Time{})
}

// park waits until done says so, which is asked again after each wake. What the
// peer sends meanwhile is kept for later, up to the size of one message.
func (s *session) park(done func() bool) error {
	s.waited = true
	for {
		// A wake that comes after this line is seen by Fill, one that came before it by done.
		s.rest()
		if done() {
			return nil
		}
		if s.ctx.Err() != nil {
			return errStopping
		}
		if err := s.conn.Fill(); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
}

// call answers one call. An error ends the session.
func (s *session) call(m protocol.Message) error {
	defer s.letGoAll(m.FDs)
	s.shut()
	if !s.privileged() {
		calm(m.FDs)
	}
	s.waited = false
	c, err := protocol.DecodeCall(m.Bytes)
	if err != nil {
		return err
	}
	if len(m.FDs) > 0 && !brings(c.Method) {
		return &protocol.MalformedError{Reason: "descriptors that nobody asked for"}
	}
	switch c.Method {
	case protocol.MethodGet:
		return s.get(c)
	case protocol.MethodList:
		return s.list(c)
	case protocol.MethodWatch:
		return s.watch(c)
	case protocol.MethodDrain:
		return s.drain(c)
	case protocol.MethodDeploy:
		return s.deploy(c)
	case protocol.MethodUpgrade:
		return s.upgrade(c)
	}
	reply, err := s.dispatch(c, m.FDs)
	if err != nil {
		s.refuse(c.Method, err)
		return s.replyError(c, err)
	}
	return s.reply(c, reply, false)
}

// dispatch calls the method that c names, of those with one plain reply. It borrows
// the descriptors that came with c.
func (s *session) dispatch(c protocol.Call, fds []*scmrights.FD) (any, error) {
	switch c.Method {
	case protocol.MethodPut:
		return s.put(c, fds)
	case protocol.MethodAttach:
		return s.attach(c, fds)
	case protocol.MethodBind:
		return s.bind(c)
	case protocol.MethodUnbind:
		return s.unbind(c)
	case protocol.MethodReload:
		return s.reload()
	case protocol.MethodGetInfo:
		return s.server.info(), nil
	case protocol.MethodGetInterfaceDescription:
		return describe(c)
	}
	name, _, _ := cutLast(c.Method, ".")
	if name != protocol.InterfaceName && name != protocol.ServiceInterfaceName {
		return nil, &protocol.InterfaceNotFoundError{Interface: name}
	}
	return nil, &protocol.MethodNotFoundError{Method: c.Method}
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// reply sends a reply to c, with descriptors, which it borrows.
func (s *session) reply(c protocol.Call, parameters any, continues bool, fds ...*scmrights.FD) error {
	if c.Oneway {
		return nil
	}
	return s.encoded(func(b []byte) ([]byte, error) {
		return protocol.AppendReply(b, parameters, continues)
	}, fds...)
}

func (s *session) replyError(c protocol.Call, err error) error {
	if c.Oneway {
		return nil
	}
	return s.encoded(func(b []byte) ([]byte, error) { return protocol.AppendError(b, err) })
}

// encoded sends what encode appends to a borrowed buffer.
func (s *session) encoded(encode func([]byte) ([]byte, error), fds ...*scmrights.FD) error {
	buf := s.server.buffers.Get().(*[]byte)
	defer s.server.buffers.Put(buf)
	b, err := encode((*buf)[:0])
	if err != nil {
		return err
	}
	if cap(b) <= 4096 { // a long list is not worth keeping
		*buf = b
	}
	return s.send(b, fds...)
}

// send sends one message. It waits until the peer has read the descriptors of an earlier
// reply, unless it is an event: that has none, and no call has asked for it.
func (s *session) send(b []byte, fds ...*scmrights.FD) error {
	if !s.waited || len(fds) > 0 {
		if err := s.awaitRead(); err != nil {
			return err
		}
	}
	if !s.patient.Load() {
		_ = s.file.SetWriteDeadline(time.Now().Add(s.server.cfg.CallTimeout))
	}
	if err := s.conn.Send(b, fds...); err != nil {
		return &sendError{err}
	}
	s.unread = s.unread || len(fds) > 0
	s.sent()
	return nil
}

// awaitRead waits until the peer has read the descriptors that it was sent, if there are
// any: the kernel counts all that are under way for this user. Another call is behind
// them, so that takes as long as a call may.
func (s *session) awaitRead() error {
	if !s.unread {
		return nil
	}
	_ = s.file.SetWriteDeadline(time.Now().Add(s.server.cfg.CallTimeout))
	switch err := s.conn.WaitRead(); {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return s.server.tooSlow("seconds to read descriptors in, when another call stands behind theirs,")
	case err != nil:
		return &sendError{err}
	}
	s.unread = false
	return nil
}
