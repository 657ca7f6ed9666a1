//go:build linux

package server

import (
	"os"
	"slices"
	"strings"

	"github.com/fdbroker/fdbroker/protocol"
	"golang.org/x/sys/unix"
)

// drain asks grants of the named listeners that are older than before to leave, and
// returns those that were asked, now or earlier, and have not left. Names that the
// caller may not get are errors, and then nobody is asked.
func (r *registry) drain(c *client, names []string, before *int64) ([]*grant, error) {
	listeners, err := r.listenersFor(c, names)
	if err != nil {
		return nil, err
	}
	limit := r.lastID + 1
	if before != nil {
		limit = min(*before, limit)
	}
	var asked []*grant
	for _, l := range listeners {
		l.sent.away(c, limit)
		r.saveListener(l)
		for _, g := range slices.Clone(l.holders) {
			if g.generation < limit && c.mayDrain(g.peer) && !slices.Contains(asked, g) && r.askToLeave(g) {
				asked = append(asked, g)
			}
		}
	}
	r.replaceDeploys(c, names, limit, asked)
	r.freed = true // for those who wait and have been sent away
	return asked, nil
}

// listenersFor returns the listeners of these names, all of which c may get.
func (r *registry) listenersFor(c *client, names []string) ([]*listener, error) {
	listeners := make([]*listener, len(names))
	for i, name := range names {
		l := r.listeners[name]
		if l == nil {
			return nil, &protocol.UnknownNameError{Name: name, Names: r.visibleTo(c.may)}
		}
		if options := l.socket.Spec().Options; !c.may(options) {
			return nil, &protocol.DeniedError{Name: name, UID: c.peer.uid, Allow: allowed(options)}
		}
		listeners[i] = l
	}
	return listeners, nil
}

// mayDrain reports whether c may ask a process of p to leave.
func (c *client) mayDrain(p peer) bool {
	return c.privileged() || p.uid == c.peer.uid && p.uid != overflowID
}

// eventUnasked is what the log alone is told: a process that cannot be signalled.
const eventUnasked = "unasked"

// askToLeave makes g draining, and tells its process or its connection, once. It
// returns false where that has ended, or cannot be told.
func (r *registry) askToLeave(g *grant) bool {
	switch {
	case g.draining:
		return true
	case g.pidfd != nil && exited(g.pidfd):
		r.end(g, endExited)
		return false
	case g.pidfd != nil && g.signal != 0:
		if err := sendSignal(g); err != nil {
			r.note(event{what: eventUnasked, grant: g, names: g.names(), err: err})
			return false
		}
	case g.more:
		g.event = protocol.EventDrain
		if g.link != nil {
			g.link.wake()
		}
	}
	g.draining = true
	r.saveGrant(g)
	r.noteGrant(protocol.EventDraining, g, "", g.names)
	return true
}

// sendSignal sends the process of g its drain signal. As that goes by its pidfd, it
// cannot reach another one that got its pid since.
func sendSignal(g *grant) error {
	var err error
	if cerr := g.pidfd.Control(func(fd uintptr) {
		err = unix.PidfdSendSignal(int(fd), g.signal, nil, 0)
	}); cerr != nil {
		return cerr
	}
	return os.NewSyscallError("pidfd_send_signal", err)
}

// signalNamed returns the signal of that name, which has no "SIG" in front.
func signalNamed(name string) (unix.Signal, error) {
	if name == "" {
		return 0, nil
	}
	if n := unix.SignalNum("SIG" + name); n != 0 && name == strings.ToUpper(name) {
		return n, nil
	}
	return 0, &protocol.InvalidParameterError{Parameter: "drainSignal"}
}

// sent is up to which generation the holders of a listener have been sent away. Who
// may drain but grants of its own sends nobody else away.
type sent struct {
	all int64            // less than this
	of  map[uint32]int64 // the same, of one user
}

func (s *sent) away(c *client, limit int64) {
	if c.privileged() {
		s.all = max(s.all, limit)
		return
	}
	if s.of == nil {
		s.of = make(map[uint32]int64)
	}
	s.of[c.peer.uid] = max(s.of[c.peer.uid], limit)
}

// has reports whether what c started as part of that generation has been sent away.
func (s *sent) has(c *client, generation int64) bool {
	return generation != 0 && (generation < s.all || generation < s.of[c.peer.uid])
}

// departure is grants that somebody waits for to leave. The registry's lock guards
// it.
type departure struct {
	link link
	left int
	told int // what the client knows of left
}

// departing makes a departure of grants, none of which has ended.
func (r *registry) departing(l link, grants []*grant) *departure {
	d := &departure{link: l, left: len(grants), told: len(grants)}
	for _, g := range grants {
		g.awaited = append(g.awaited, d)
	}
	return d
}

// giveUp makes nobody tell d any more.
func (r *registry) giveUp(d *departure) {
	for _, g := range r.grants {
		g.awaited = without(g.awaited, d)
	}
}

// tellLeft tells those who wait for g to leave that it has.
func (g *grant) tellLeft() {
	for _, d := range g.awaited {
		d.left--
		d.link.wake()
	}
	g.awaited = nil
}

// drain answers Drain.
func (s *session) drain(c protocol.Call) error {
	var p protocol.DrainParameters
	err := protocol.DecodeParameters(c.Parameters, &p)
	if err == nil {
		err = s.checkNames(p.Names)
	}
	if err == nil && p.Before != nil && *p.Before < 0 {
		err = &protocol.InvalidParameterError{Parameter: "before"}
	}
	var d *departure
	n := 0
	if err == nil {
		s.server.locked(func() {
			var asked []*grant
			asked, err = s.server.registry.drain(&s.client, p.Names, p.Before)
			if n = len(asked); c.More && n > 0 {
				d = s.server.registry.departing(s, asked)
			}
		})
	}
	if err != nil {
		s.refuse(c.Method, err)
		return s.replyError(c, err)
	}
	l := s.server.log.Info().Strs("names", p.Names).Int("count", n)
	s.peer.addTo(l)
	l.Msg("drained")
	switch {
	case !c.More || c.Oneway:
		return s.reply(c, protocol.DrainReply{Drained: n}, false)
	case d == nil:
		return s.reply(c, protocol.DrainReply{Left: new(0)}, false)
	}
	defer s.server.locked(func() { s.server.registry.giveUp(d) })
	return s.seeOff(c, d, n)
}

// seeOff tells the client of d's n grants as they leave.
func (s *session) seeOff(c protocol.Call, d *departure, n int) error {
	r := s.server.registry
	for left := n; ; {
		if err := s.reply(c, protocol.DrainReply{Drained: n, Left: &left}, left > 0); err != nil || left == 0 {
			return err
		}
		if err := s.park(func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			changed := d.left != d.told
			d.told, left = d.left, d.left
			return changed
		}); err != nil {
			return err
		}
	}
}
