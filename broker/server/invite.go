//go:build linux

package server

import (
	"sync"
	"time"

	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// Nobody can send descriptors to the broker (see listenUnix), since to close one
// may block. Who may leave one here asks first, and is let in with one: the
// connection takes descriptors from then to the end of the next call, unless that is too
// late. What it costs to close them it costs the session that took them; see letGo.

// invitation is the time in which a connection takes descriptors.
type invitation struct {
	session *session
	timer   *time.Timer
	back    *inUse // what it is to give back, if anything

	mu   sync.Mutex
	over bool
}

// invite lets the next message carry a descriptor, if it comes within CallTimeout.
func (s *session) invite() *invitation {
	i := &invitation{session: s}
	s.invited, s.taking = i, true
	s.conn.Admit(1)
	s.passRights(1)
	i.timer = time.AfterFunc(s.server.cfg.CallTimeout, i.end)
	if s.ctx.Err() != nil {
		i.end() // interrupt may not have seen it
	}
	return i
}

// end makes the connection take no more descriptors. What has arrived is taken.
func (i *invitation) end() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.over {
		i.over = true
		i.session.passRights(0)
	}
}

// shut ends what invite began.
func (s *session) shut() {
	if s.invited == nil {
		return
	}
	s.invited.timer.Stop()
	s.invited.end()
	s.server.registry.uninvite(s.invited)
	s.invited = nil
	s.conn.Admit(0)
}

// invitations are those to give one socket back. The registry's lock guards them.
type invitations map[*invitation]struct{}

func (all invitations) end() {
	for i := range all {
		i.end()
	}
}

// inviteFor makes i end when name is not pending any more.
func (r *registry) inviteFor(name string, i *invitation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	u := r.pending[name]
	if u == nil {
		i.end()
		return
	}
	if i.back = u; u.invited == nil {
		u.invited = make(invitations)
	}
	u.invited[i] = struct{}{}
}

// uninvite forgets i, which has ended.
func (r *registry) uninvite(i *invitation) {
	if i.back == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(i.back.invited, i)
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
