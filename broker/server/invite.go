//go:build linux

package server

import (
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// Nobody can send descriptors to the broker (see listenUnix), since to close one
// may block. Who may leave one here asks first, and is let in with one: the
// connection takes descriptors from then to the end of the next call. What it costs
// to close them it costs the session that took them.

// invite lets the next message carry a descriptor.
func (s *session) invite() {
	s.invited = true
	s.conn.Admit(1)
	s.passRights(1)
}

// shut ends what invite began.
func (s *session) shut() {
	if !s.invited {
		return
	}
	s.invited = false
	s.conn.Admit(0)
	s.passRights(0)
}

// passRights lets the peer send descriptors, or not. Older kernels do not know the
// option, and there the peer always can.
func (s *session) passRights(on int) {
	_ = s.rc.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSRIGHTS, on) })
}

// brings reports whether a method is one of those that take a descriptor.
func brings(method string) bool {
	return method == protocol.MethodPut || method == protocol.MethodAttach
}

// brought returns the descriptor that a call says it has brought, of those that came
// with it; nil where it says nothing. The caller must close it.
func brought(index *int, fds []*scmrights.FD) (*scmrights.FD, error) {
	switch {
	case index == nil && len(fds) == 0:
		return nil, nil
	case index == nil || *index != 0 || len(fds) != 1:
		return nil, &protocol.InvalidParameterError{Parameter: "fileDescriptor"}
	}
	return fds[0].Dup()
}
