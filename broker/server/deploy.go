//go:build linux

package server

import (
	"errors"
	"os"
	"slices"
	"time"

	"github.com/fdbroker/fdbroker/protocol"
)

// deploy is a client that starts workers, and is to know when a newer one has
// replaced them. The registry's lock guards it.
type deploy struct {
	generation int64
	names      []string // empty: only what its workers hold counts
	client     *client
	link       link
	replaced   bool
	heard      chan struct{} // closed when the client has acted on that, or will not
}

// hearing is how long workers are not asked to leave yet, at most, so that those who
// would start them again have heard of it before the first one has left.
const hearing = 100 * time.Millisecond

// enroll makes a deploy of c known, unless it has been replaced already.
func (r *registry) enroll(c *client, l link, p protocol.DeployParameters) (*deploy, error) {
	d := &deploy{generation: p.Generation, names: p.Names, client: c, link: l, heard: make(chan struct{})}
	if r.isAnothers(c, d.generation) || !r.countFrom(d.generation) {
		d.generation = 0 // it begins anew
	}
	for _, name := range d.names {
		l := r.listeners[name]
		switch {
		case l == nil: // may come yet
		case !c.may(l.socket.Spec().Options):
			return nil, &protocol.DeniedError{Name: name, UID: c.peer.uid, Allow: allowed(l.socket.Spec().Options)}
		case l.sentAway().covers(c.peer.uid, d.generation):
			return nil, &protocol.ReplacedError{Name: name, Generation: d.generation}
		}
	}
	if left := r.leftOf(d); left != nil {
		return nil, &protocol.ReplacedError{Name: left.names()[0], Generation: d.generation}
	}
	if d.generation == 0 {
		d.generation = r.newID()
	}
	r.deploys[d] = struct{}{}
	r.revokeClaims(d)
	return d, nil
}

// leftOf returns a grant of d's workers that was asked to leave while d was not known, or
// nil.
func (r *registry) leftOf(d *deploy) *grant {
	for _, g := range r.grants {
		if d.generation != 0 && g.generation == d.generation && g.draining && g.peer.belongsTo(d.client.peer) && d.sentFrom(g) {
			return g
		}
	}
	return nil
}

// sentFrom reports whether d was sent away from a listener of g, and not only g's user.
func (d *deploy) sentFrom(g *grant) bool {
	return slices.ContainsFunc(g.listeners, func(l *listener) bool {
		return l.sentAway().covers(d.client.peer.uid, d.generation)
	})
}

// replace makes d hear that it has been replaced.
func (d *deploy) replace() {
	d.replaced = true
	d.link.wake()
}

// replaceDeploys tells the deploys that c, by draining the named listeners up to
// limit, has replaced, and returns them. Leaving are the grants that are to be asked to
// leave.
func (r *registry) replaceDeploys(c *client, names []string, limit int64, leaving []*grant) (replaced []*deploy) {
	for d := range r.deploys {
		if !c.mayDrain(d.client.peer) {
			continue
		}
		own := slices.ContainsFunc(leaving, func(g *grant) bool {
			return g.generation == d.generation && g.peer.belongsTo(d.client.peer)
		})
		older := d.generation < limit &&
			slices.ContainsFunc(names, func(name string) bool { return slices.Contains(d.names, name) })
		if own || older {
			d.replace()
			replaced = append(replaced, d)
		}
	}
	return replaced
}

// untilHeard waits until deploys that were replaced have heard it, for as long as hearing.
func (s *session) untilHeard(deploys []*deploy) {
	if len(deploys) == 0 {
		return
	}
	limit := time.NewTimer(hearing)
	defer limit.Stop()
	for _, d := range deploys {
		select {
		case <-d.heard:
		case <-limit.C:
			return // who does not listen holds up nobody
		case <-s.ctx.Done():
			return
		}
	}
}

// deploy answers Deploy until the deploy is replaced or the peer goes.
func (s *session) deploy(c protocol.Call) error {
	d, err := s.enroll(c)
	if err != nil {
		s.refuse(c.Method, err)
		return s.replyError(c, err)
	}
	r := s.server.registry
	defer close(d.heard)
	defer s.server.locked(func() { delete(r.deploys, d) })
	if err := s.reply(c, protocol.DeployReply{Generation: d.generation}, true); err != nil {
		return err
	}
	if err := s.park(func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return d.replaced
	}); err != nil {
		return err
	}
	if err := s.reply(c, protocol.DeployReply{Generation: d.generation, Event: protocol.EventDrain}, false); err != nil {
		return err
	}
	return s.untilActedOn()
}

// untilActedOn waits until the peer says anything more, or closes the connection, for as
// long as hearing.
func (s *session) untilActedOn() error {
	_ = s.file.SetReadDeadline(time.Now().Add(hearing))
	defer s.rest()
	if err := s.conn.Fill(); !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return nil
}

// enroll makes the deploy that c asks for.
func (s *session) enroll(c protocol.Call) (d *deploy, err error) {
	if !c.More || c.Oneway {
		return nil, &protocol.ExpectedMoreError{}
	}
	var p protocol.DeployParameters
	if err := protocol.DecodeParameters(c.Parameters, &p); err != nil {
		return nil, err
	}
	if p.Generation < 0 || p.Generation > maxID {
		return nil, &protocol.InvalidParameterError{Parameter: "generation"}
	}
	if len(p.Names) > 0 {
		if err := s.checkNames(p.Names); err != nil {
			return nil, err
		}
	}
	s.server.locked(func() { d, err = s.server.registry.enroll(&s.client, s, p) })
	return d, err
}
