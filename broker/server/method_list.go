package server

import (
	"cmp"
	"slices"

	"github.com/fdbroker/fdbroker/broker/server/health"
	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/broker/socket/sockdiag"
	"github.com/fdbroker/fdbroker/internal/procfs"
	"github.com/fdbroker/fdbroker/protocol"
)

// listAll answers List. Lists of callers without privilege are made one after the other: each costs what
// all names cost, and no other client is to wait for a processor meanwhile.
func (k *call) listAll() error {
	if k.Oneway {
		return nil
	}
	return k.run(func() (any, error) {
		if !k.conn.Caller.Privileged {
			select {
			case k.listing <- struct{}{}:
				defer func() { <-k.listing }()
			case <-k.stopping:
				return nil, registry.ErrStopping
			}
		}
		return k.list(&k.conn.Caller), nil
	})
}

// list describes the listeners that the caller may see, and their holders; a nil caller sees everything.
func (s *Server) list(c *registry.Caller) protocol.ListReply {
	shots, holders := s.registry.List(c)
	listeners := s.describe(shots)
	if c == nil || c.Privileged {
		s.addStrays(listeners, shots)
	}
	for i := range holders {
		holders[i].Command = procfs.Command(holders[i].PID)
	}
	slices.SortFunc(holders, func(a, b protocol.Holder) int { return cmp.Compare(a.Grant, b.Grant) })
	return protocol.ListReply{Listeners: listeners, Holders: append([]protocol.Holder{}, holders...), Deployers: s.registry.Deployers(c)}
}

// describe adds to what the registry says what the kernel counts, which may take long.
func (s *Server) describe(shots []registry.Snapshot) []protocol.Listener {
	sockets := make([]*socket.Socket, len(shots))
	for i, shot := range shots {
		sockets[i] = shot.Socket
	}
	figures, errs := socket.FiguresOf(sockets)
	listeners := make([]protocol.Listener, len(shots))
	for i, shot := range shots {
		listeners[i] = describe(shot, figures[i], errs[i])
		addStatus(&listeners[i], s.monitor.Status(shot.Socket))
		listeners[i].Unstored = s.Unstored(shot.Socket)
	}
	return listeners
}

func describe(shot registry.Snapshot, f sockdiag.Figures, err error) protocol.Listener {
	sock, s := shot.Socket, shot.Socket.Spec()
	l := protocol.Listener{
		Name: s.Name, Network: sock.Network(), Address: sock.Address(), Spec: s.String(), Cookie: sock.Cookie(),
		Max: s.Options.Max, Holders: shot.Holders, Unseen: shot.Unseen, Stale: shot.Stale, Waiting: shot.Waiting, Blocking: shot.Blocking, Bytes: sock.Packet(),
	}
	if is, err := sock.Blocking(); err == nil {
		l.Blocking, l.Flipped = is, is != shot.Blocking
	}
	// Without figures the listener was unbound a moment ago, or the kernel has none.
	if err == nil {
		l.Queue, l.Limit = new(int64(f.Queue)), new(int64(f.Limit))
		if f.DropsKnown {
			l.Drops = new(uint64(f.Drops))
		}
		l.Orphaned = f.Queue > 0 && !shot.InUse()
	}
	return l
}

// addStatus adds what the health monitor says. What it saw last may be out of date: the figures are new.
func addStatus(l *protocol.Listener, is health.Status) {
	l.Healed, l.HealedLimits, l.Ailment = is.Repaired, is.Limits, is.Fault
	if !is.Stalled.IsZero() && l.Holders+l.Unseen > 0 && l.Queue != nil && *l.Queue > 0 {
		l.Stalled, l.StalledSince = true, is.Stalled.UnixMicro()
	}
}

// Listeners describes all listeners, by name.
func (s *Server) Listeners() []protocol.Listener { return s.list(nil).Listeners }
