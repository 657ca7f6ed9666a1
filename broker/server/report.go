//go:build linux

package server

import (
	"strings"

	"github.com/rs/zerolog"
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
	case eventUnasked:
		l := s.log.Warn().Err(e.err).Int64("grant", e.grant.id).Strs("names", e.names)
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
