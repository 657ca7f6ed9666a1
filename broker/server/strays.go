package server

import (
	"cmp"
	"slices"
	"time"

	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/broker/socket/holders"
	"github.com/fdbroker/fdbroker/internal/procfs"
	"github.com/fdbroker/fdbroker/protocol"
)

// A stray is a process that has the socket of a listener open without a grant, usually because its parent had one.
// Finding strays needs a look at all descriptors of all processes, so nobody looks until a client wants to know, and
// not for a listener that no process has had.

// searchTime bounds a search for strays, because clients wait five seconds for an answer.
const searchTime = time.Second

// usersOf returns the processes that have these sockets open, as far as they can be seen: see [socket.Users].
func (s *Server) usersOf(sockets []*socket.Socket) map[*socket.Socket][]holders.Process {
	if len(sockets) == 0 {
		return nil
	}
	select {
	case s.seeking <- struct{}{}:
		defer func() { <-s.seeking }()
	case <-s.stopping:
		return nil
	}
	return socket.Users(sockets, searchTime)
}

// addStrays adds the strays of listeners without holders.
func (s *Server) addStrays(listeners []protocol.Listener, shots []registry.Snapshot) {
	var unheld []*socket.Socket
	for _, shot := range shots {
		if shot.Holders == 0 && shot.Used {
			unheld = append(unheld, shot.Socket)
		}
	}
	users := s.usersOf(unheld)
	for i, shot := range shots {
		for _, p := range users[shot.Socket] {
			if shot.Holders == 0 {
				listeners[i].Strays = append(listeners[i].Strays, protocol.Process{PID: p.PID, Command: p.Command})
			}
		}
	}
}

// unbindNames unbinds, and says which processes still have the sockets.
func (s *Server) unbindNames(names []string) (reply protocol.UnbindReply, err error) {
	shots := s.registry.Snapshots(names)
	_, granted := s.registry.List(nil)
	if err := s.Unbind(names...); err != nil {
		return reply, err
	}
	shots = slices.DeleteFunc(shots, func(shot registry.Snapshot) bool { return !shot.Used })
	var sockets []*socket.Socket
	for _, shot := range shots {
		sockets = append(sockets, shot.Socket)
	}
	users := s.usersOf(sockets)
	for _, shot := range shots {
		name := shot.Socket.Name()
		reply.Remaining = append(reply.Remaining, remaining(name, granted, users[shot.Socket])...)
		if shot.Unseen > 0 {
			reply.Remaining = append(reply.Remaining, protocol.Remaining{Name: name})
		}
	}
	return reply, nil
}

// remaining returns the processes that had a grant of name, and the users of its socket that had none.
func remaining(name string, granted []protocol.Holder, users []holders.Process) (all []protocol.Remaining) {
	for _, h := range granted {
		if slices.Contains(h.Names, name) && (h.State == protocol.StateActive || h.State == protocol.StateDraining) {
			r := protocol.Remaining{Name: name, PID: h.PID, Granted: true}
			if h.PID != 0 {
				r.Command = procfs.Name(h.PID)
			}
			all = append(all, r)
		}
	}
	for _, p := range users {
		if !slices.ContainsFunc(all, func(r protocol.Remaining) bool { return r.PID == p.PID }) {
			all = append(all, protocol.Remaining{Name: name, PID: p.PID, Command: p.Command})
		}
	}
	slices.SortFunc(all, func(a, b protocol.Remaining) int { return cmp.Compare(a.PID, b.PID) })
	return all
}
