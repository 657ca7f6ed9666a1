package server

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/fdbroker/fdbroker/broker/server/conn"
	"github.com/fdbroker/fdbroker/broker/server/control"
	"github.com/fdbroker/fdbroker/broker/server/health"
	"github.com/fdbroker/fdbroker/broker/server/peer"
	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/internal/kernel"
	"github.com/fdbroker/fdbroker/internal/procfs"
	"github.com/fdbroker/fdbroker/protocol"
)

// mostPIDs limits the processes that one line of the log names.
const mostPIDs = 20

// report logs what has happened.
func (s *Server) report(e registry.Event) {
	switch e.What {
	case protocol.EventBound, registry.EventRestored:
		s.log.Info().Str("name", e.Name).Str("network", e.Socket.Network()).Str("address", e.Socket.Address()).
			Int("backlog", e.Socket.Backlog()).Msg(e.What)
	case protocol.EventUnbound:
		s.log.Info().Str("name", e.Name).Str("address", e.Socket.Address()).Msg("unbound")
	case protocol.EventRenewed:
		l := s.log.Info().Str("name", e.Name).Str("address", e.Socket.Address())
		if e.Why != "" {
			l = l.Str("old", e.Why)
		}
		l.Msg("new socket")
	case protocol.EventFlipped:
		s.sampled.Warn().Str("name", e.Name).Msg("a worker changed O_NONBLOCK, which all holders share")
	case protocol.EventHealed:
		if strings.Contains(e.Why, "the kernel gives") { // no worker has done that
			s.sampled.Warn().Str("name", e.Name).Str("what", e.Why).Msg("the kernel caps the backlog")
			return
		}
		l, message := s.sampled.Warn(), "repaired the socket, which a worker had changed"
		if health.OfLimit(e.Why) { // most servers set it as they start
			l, message = s.sampled.Debug(), "restored the queue limit, which a worker had set"
		}
		l.Str("name", e.Name).Str("what", e.Why).Strs("holders", commands(e.PIDs)).Msg(message)
	case protocol.EventStalled:
		s.log.Warn().Str("name", e.Name).Strs("holders", commands(e.PIDs)).
			Msgf("%s, although the listener is held: its holders do not accept, or too slowly", e.Why)
	case protocol.EventServed:
		s.log.Info().Str("name", e.Name).Msg(e.Why)
	case registry.EventFaulty:
		s.reportFault(e)
	case registry.EventLost:
		l := s.log.Warn()
		if e.Why == peer.ErrExited.Error() {
			l = s.log.Info()
		}
		l.Int("count", len(e.PIDs)).Ints("pids", e.PIDs[:min(len(e.PIDs), mostPIDs)]).Str("why", e.Why).
			Msg("grants of the previous broker were not restored")
	case registry.EventUnwritten:
		s.log.Error().Err(e.Err).Msg("cannot write the journal: the next broker will not know what happens from now on")
	case registry.EventUnasked:
		l := s.sampled.Warn().Err(e.Err)
		addHolder(l, e.Holder)
		if why := kernel.Explain(e.Err); why != "" {
			l = l.Str("why", why)
		}
		l.Msg("cannot send the drain signal: the broker must run as the process's user, or have CAP_KILL")
	case protocol.EventGranted, protocol.EventDraining, protocol.EventEnded:
		s.grants.add(e)
	}
}

func (s *Server) reportFault(e registry.Event) {
	l := s.sampled.Warn().Err(e.Err).Str("name", e.Name).Strs("holders", commands(e.PIDs))
	if e.Why != "" {
		l = l.Str("why", e.Why)
	}
	if errors.Is(e.Err, socket.ErrBeyondRepair) {
		l.Msg("cannot repair the socket, which a worker has changed")
		return
	}
	l.Msg("cannot repair the socket, which a worker has changed: trying again, less and less often, without logging until that changes")
}

// report is what the health monitor is given.
type report struct{ *Server }

var _ health.Report = report{}

func (r report) Repaired(sock *socket.Socket, what string, _ int) {
	r.registry.HealthEvent(protocol.EventHealed, sock, what, nil)
}

func (r report) Faulty(sock *socket.Socket, f health.Fault) {
	r.registry.HealthEvent(registry.EventFaulty, sock, f.Who, f.Err)
}

func (r report) ModeChanged(sock *socket.Socket) { r.registry.ModeChanged(sock) }

func (r report) Stalled(sock *socket.Socket, lasted time.Duration) {
	why := fmt.Sprintf("queue not empty for %v", lasted.Truncate(time.Second))
	r.registry.HealthEvent(protocol.EventStalled, sock, why, nil)
}

func (r report) Served(sock *socket.Socket, lasted time.Duration) {
	why := fmt.Sprintf("queue empty again after %v", lasted.Truncate(time.Second))
	r.registry.HealthEvent(protocol.EventServed, sock, why, nil)
}

// guarded is what the guard of the control socket is given.
type guarded struct{ *Server }

var _ control.Guarded = guarded{}

func (g guarded) Renewed(c *control.Control) {
	if err := g.KeepControl(c); err != nil {
		g.log.Error().Err(err).Msg("the control socket would not outlive this broker")
	}
	g.loop.Replace(c.Listener)
}

func (g guarded) Returned(what string) {
	g.sampled.Warn().Str("what", what).Msg("the control socket is at its path again")
}

func (g guarded) Gone(err error) {
	g.sampled.Warn().Err(err).Msg("the control socket is gone, so no client can connect: make its directory again, or remove what is in the way; " +
		"workers and listeners keep working, and the broker tries again")
}

// infoFor begins a line about what a call has done. Callers without privilege may call as often as they like.
func (s *Server) infoFor(c *conn.Conn) *zerolog.Event {
	if c.Caller.Privileged {
		return s.log.Info()
	}
	return s.sampled.Info()
}

// A loggedError is one that was logged where it happened.
type loggedError struct{ error }

func (e loggedError) Unwrap() error { return e.error }

// logRefused logs that a call, or a connection, was refused, and tells the watchers.
func (s *Server) logRefused(c *conn.Conn, method string, err error) {
	why := cut(err.Error())
	s.registry.Refused(&c.Caller, cut(method), why)
	level, msg := zerolog.WarnLevel, "refused"
	if errors.Is(err, conn.ErrUnread) {
		level, msg = zerolog.InfoLevel, why
	}
	l := s.sampled.WithLevel(level)
	if _, logged := errors.AsType[loggedError](err); l == nil || logged {
		return
	}
	if method != "" {
		l = l.Str("method", cut(method))
	}
	addPeer(l, c.Caller.Peer)
	if level == zerolog.WarnLevel {
		l = l.Str(zerolog.ErrorFieldName, why)
	}
	l.Msg(msg)
}

// logHandBack logs that a process has handed a socket back. Holders are those that it has started.
func (s *Server) logHandBack(c *conn.Conn, name string, holders []int) {
	l := s.log.Warn().Str("name", name).Str("command", procfs.Command(c.Caller.Peer.PID))
	addPeer(l, c.Caller.Peer)
	if len(holders) > 0 {
		l.Ints("holders", holders[:min(len(holders), mostPIDs)]).Msg("handed back by the process that has started its holders")
		return
	}
	l.Msg("a worker of the previous broker handed its socket back")
}

// cut bounds what a peer chose the length of.
func cut(text string) string {
	const most = 512
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "..."
}

func addPeer(l *zerolog.Event, p peer.Credentials) {
	l.Int("pid", p.PID).Uint32("uid", p.UID).Uint32("gid", p.GID)
}

func addHolder(l *zerolog.Event, h *protocol.Holder) {
	l.Int64("grant", h.Grant).Strs("names", h.Names).Int("pid", h.PID).Uint32("uid", h.UID).Uint32("gid", h.GID)
}

// commands returns processes as a log shows them, with the names that the kernel has for them: those can be
// read without waiting for the processes.
func commands(pids []int) []string {
	texts := make([]string, len(pids))
	for i, pid := range pids {
		texts[i] = fmt.Sprintf("%d (%s)", pid, procfs.Name(pid))
	}
	return texts
}
