//go:build linux

package server

import (
	"errors"
	"maps"

	"github.com/fdbroker/fdbroker/protocol"
)

// sendAway makes c's users of the named listeners whose generation is older than before
// get no place any more, and those who wait hear it. It returns the grants that are to be
// asked to leave, and the deploys they belong to, which are told. Names that the caller
// may not get are errors, and then nobody is sent away.
func (r *registry) sendAway(c *client, names []string, before *int64) ([]*grant, []*deploy, error) {
	if c.server.desk.ctx.Err() != nil {
		return nil, nil, errStopping // the next broker would not know of it
	}
	listeners, err := r.listenersFor(c, names)
	if err != nil {
		return nil, nil, err
	}
	limit := r.lastID + 1
	if before != nil {
		limit = min(*before, limit)
	}
	var leaving []*grant
	seen := make(map[*grant]bool)
	for _, l := range listeners {
		l.history().sent.away(c, limit)
		r.saveListener(l)
		for _, g := range l.holders {
			if !seen[g] && g.generation < limit && c.mayDrain(g.peer) {
				seen[g] = true
				leaving = append(leaving, g)
			}
		}
	}
	r.freed = true // for those who wait and have been sent away
	return leaving, r.replaceDeploys(c, names, limit, leaving), nil
}

// askAll asks grants to leave, and returns those that were asked, now or earlier, and
// have not left, and how many could not be asked.
func (r *registry) askAll(grants []*grant) (asked []*grant, failed int) {
	for _, g := range grants {
		if r.askToLeave(g) {
			asked = append(asked, g)
		} else if !g.ended {
			failed++
		}
	}
	return asked, failed
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
	return c.privileged() || p.sameUser(c.peer)
}

// mostSent is of how many users a listener remembers that they have sent theirs away: a
// user may have thousands of ids, and what the state says of a listener has a limit.
const mostSent = 1024

// sent is up to which generation the holders of a listener have been sent away. Who
// may drain but grants of its own sends nobody else away.
type sent struct {
	all int64            // less than this
	of  map[uint32]int64 // the same, of one user
}

func (s *sent) away(c *client, limit int64) {
	if c.privileged() {
		s.all = max(s.all, limit)
		maps.DeleteFunc(s.of, func(_ uint32, limit int64) bool { return limit <= s.all })
		return
	}
	if s.of == nil {
		s.of = make(map[uint32]int64)
	}
	s.of[c.peer.uid] = max(s.of[c.peer.uid], limit)
	if len(s.of) <= mostSent {
		return
	}
	oldest := c.peer.uid
	for uid, limit := range s.of {
		if limit < s.of[oldest] {
			oldest = uid
		}
	}
	delete(s.of, oldest)
}

// covers reports whether what a user has started as part of that generation has been sent
// away.
func (s sent) covers(uid uint32, generation int64) bool {
	return generation != 0 && (generation < s.all || generation < s.of[uid])
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
	var reply protocol.DrainReply
	var d *departure
	err := protocol.DecodeParameters(c.Parameters, &p)
	if err == nil {
		reply, d, err = s.askToLeave(p, c.More && !c.Oneway)
	}
	if errors.Is(err, errStopping) {
		return err
	}
	if err != nil {
		s.refuse(c.Method, err)
		return s.replyError(c, err)
	}
	l := s.info().Strs("names", p.Names).Int("count", reply.Drained).Int("failed", reply.Failed)
	s.peer.addTo(l)
	l.Msg("drained")
	if d == nil {
		return s.reply(c, reply, false)
	}
	defer s.server.locked(func() { s.server.registry.giveUp(d) })
	return s.seeOff(c, d, reply)
}

// askToLeave asks the grants that p says to leave, and says how many were asked. With
// await their departure is to be followed.
func (s *session) askToLeave(p protocol.DrainParameters, await bool) (reply protocol.DrainReply, d *departure, err error) {
	if err := s.checkNames(p.Names); err != nil {
		return reply, nil, err
	}
	if p.Before != nil && *p.Before < 0 {
		return reply, nil, &protocol.InvalidParameterError{Parameter: "before"}
	}
	r := s.server.registry
	var leaving []*grant
	var deploys []*deploy
	s.server.locked(func() { leaving, deploys, err = r.sendAway(&s.client, p.Names, p.Before) })
	if err != nil {
		return reply, nil, err
	}
	s.untilHeard(deploys)
	s.server.locked(func() {
		if s.server.desk.ctx.Err() != nil {
			err = errStopping
			return
		}
		var asked []*grant
		asked, reply.Failed = r.askAll(leaving)
		if reply.Drained = len(asked); await {
			d = r.departing(s, asked)
		}
	})
	return reply, d, err
}

// seeOff tells the client of d's grants as they leave.
func (s *session) seeOff(c protocol.Call, d *departure, reply protocol.DrainReply) error {
	r := s.server.registry
	for left := reply.Drained; ; {
		reply.Left = &left
		if err := s.reply(c, reply, left > 0); err != nil || left == 0 {
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
