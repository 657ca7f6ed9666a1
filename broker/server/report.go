//go:build linux

package server

import (
	"errors"
	"strings"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// report logs what has happened.
func (s *Server) report(e event) {
	switch e.what {
	case "bound", "restored":
		s.log.Info().Str("name", e.name).Str("network", e.socket.Network()).Str("address", e.socket.Address()).
			Int("backlog", e.socket.Backlog()).Msg(e.what)
	case "unbound":
		s.log.Info().Str("name", e.name).Str("address", e.socket.Address()).Msg("unbound")
	case "flipped":
		s.sampled.Warn().Str("name", e.name).Msg("a worker changed O_NONBLOCK, which all holders share")
	case eventHealed:
		l := s.sampled.Warn()
		if strings.HasPrefix(string(e.why), "backlog") { // which many a server sets as it starts
			l = s.sampled.Info()
		}
		l.Str("name", e.name).Str("what", string(e.why)).Strs("holders", commands(e.pids)).Msg("healed what a worker has done to the socket")
	case eventSick:
		s.reportSick(e)
	case eventUnasked:
		l := s.sampled.Warn().Err(e.err).Int64("grant", e.grant.id).Strs("names", e.names)
		e.grant.peer.addTo(l)
		l.Msg("cannot send the drain signal: it takes a broker of the process's user, or one with CAP_KILL")
	case "granted", "draining", "ended":
		l := s.log.Debug()
		if l == nil {
			return
		}
		l = l.Int64("grant", e.grant.id).Strs("names", e.names)
		e.grant.peer.addTo(l)
		if e.why != "" {
			l = l.Str("why", string(e.why))
		}
		l.Msg(e.what)
	}
}

// info begins a line about what a call of c has done. Who has no privilege may call as
// often as it likes.
func (c *client) info() *zerolog.Event {
	if c.privileged() {
		return c.server.log.Info()
	}
	return c.server.sampled.Info()
}

// refuse logs that a call, or a connection, was refused, and tells those who watch.
func (c *client) refuse(method string, err error) {
	c.tellRefused(method, err)
	l := c.server.sampled.Warn()
	if l == nil {
		return
	}
	if method != "" {
		l = l.Str("method", cut(method))
	}
	c.peer.addTo(l)
	l.Str(zerolog.ErrorFieldName, cut(err.Error())).Msg("refused")
}

// cut bounds what a peer chose the length of.
func cut(text string) string {
	const most = 512
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "..."
}

func (p peer) addTo(l *zerolog.Event) {
	l.Int("pid", p.pid).Uint32("uid", p.uid).Uint32("gid", p.gid)
}

// reportSick logs that something cannot be undone yet. To find out who has an address
// by now may take seconds: the healer, which is who reports this, goes on meanwhile.
func (s *Server) reportSick(e event) {
	l := s.sampled.Warn().Err(e.err).Str("name", e.name).Strs("holders", commands(e.pids))
	if errors.Is(e.err, socket.ErrBeyondRepair) {
		l.Msg("cannot undo what a worker has done to the socket")
		return
	}
	const message = "cannot undo yet what a worker has done to the socket; trying again"
	if !errors.Is(e.err, unix.EADDRINUSE) {
		l.Msg(message)
		return
	}
	s.registry.ward.healer.running.Go(func() {
		who := e.socket.WhoHas()
		s.locked(func() {
			if sick := s.registry.ward.sick[s.registry.listeners[e.name]]; sick != nil {
				sick.why = who
			}
		})
		l.Str("why", who).Msg(message)
	})
}
