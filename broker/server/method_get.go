package server

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server/conn"
	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/internal/procfs"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// getSlow answers a Get that is not written plainly.
func (k *call) getSlow() error {
	if k.Oneway {
		return nil // there is no reply for the sockets to come with
	}
	var p protocol.GetParameters
	if err := protocol.DecodeParameters(k.Parameters, &p); err != nil {
		return err
	}
	return k.get(k.conn, p, k.More)
}

// get answers Get: it hands out sockets, now or when they are to be had, and with more keeps the grant
// until the connection ends.
func (s *Server) get(c *conn.Conn, p protocol.GetParameters, more bool) error {
	q, err := s.request(c, &p, more)
	if err != nil {
		return s.refuse(c, protocol.MethodGet, err, false)
	}
	if s.registry.Ask(q, p.Wait) {
		return s.answerGet(c, p, q)
	}
	answered := false
	c.Park(&conn.Parked{
		Step: func() error {
			if !s.registry.Decided(q) {
				return nil
			}
			answered = true
			c.Done()
			return s.answerGet(c, p, q)
		},
		End: func(bool) {
			if !answered {
				s.registry.Cancel(q)
			}
		},
	})
	return nil
}

// request makes the request that a Get asks for.
func (s *Server) request(c *conn.Conn, p *protocol.GetParameters, more bool) (*registry.Request, error) {
	if err := s.checkNames(p.Names); err != nil {
		return nil, err
	}
	signal, err := signalNamed(p.DrainSignal)
	if err != nil {
		return nil, err
	}
	if p.Generation < 0 || p.Generation > registry.MaxID {
		return nil, &protocol.InvalidParameterError{Parameter: "generation"}
	}
	return &registry.Request{
		Names: p.Names, Blocking: p.Blocking, DrainSignal: signal, Generation: p.Generation, Reclaim: p.Resume,
		More: more, Caller: &c.Caller, Link: c,
	}, nil
}

// answerGet sends what q, which is decided, was given.
func (s *Server) answerGet(c *conn.Conn, p protocol.GetParameters, q *registry.Request) error {
	g, sockets, err := q.Result()
	if err != nil {
		return s.refuseGet(c, err)
	}
	reply := protocol.GetReply{Grant: g.ID(), Sockets: make([]protocol.Socket, len(sockets))}
	var few [4]*scmrights.FD
	fds := few[:0]
	for i, sock := range sockets {
		reply.Sockets[i] = protocol.Socket{Name: q.Names[i], Network: sock.Network(), Address: sock.Address(), FileDescriptor: i}
		fds = append(fds, sock.FD())
	}
	s.buffer = protocol.AppendGetReply(s.buffer[:0], reply, q.More)
	switch err := c.Send(s.buffer, fds...); {
	case err == nil && q.More:
		s.hold(c, g)
		return nil
	case err == nil:
		if c.Waits() {
			c.IfUnsent(func() { s.registry.Cancel(q) })
		}
		return nil
	case errors.Is(err, os.ErrClosed):
		s.registry.Cancel(q)
		return s.get(c, p, q.More) // unbound meanwhile, or its name has another socket now
	case errors.Is(err, unix.ETOOMANYREFS):
		s.registry.Cancel(q)
		err = &protocol.LimitError{Limit: "descriptors that other clients have not read yet"}
		return s.refuse(c, protocol.MethodGet, err, false)
	default:
		s.registry.Cancel(q)
		return err
	}
}

// hold keeps g until the connection ends, and sends its client what becomes of it.
func (s *Server) hold(c *conn.Conn, g *registry.Grant) {
	c.Park(&conn.Parked{
		Step: func() error {
			event := s.registry.TakeEvent(g)
			if event == "" {
				return nil
			}
			if event == protocol.EventUnbound {
				c.Done()
			}
			reply := protocol.GetReply{Grant: g.ID(), Event: event}
			return c.Send(protocol.AppendGetReply(nil, reply, event != protocol.EventUnbound))
		},
		End: func(stopping bool) { s.registry.End(g, whyDisconnected(stopping)) },
	})
}

// refuseGet refuses a Get. If the error names holders, it reads their commands from /proc, which may
// block: another process decides how long that takes.
func (s *Server) refuseGet(c *conn.Conn, err error) error {
	var holders *[]protocol.Holder
	if e, ok := errors.AsType[*protocol.ConflictError](err); ok {
		holders = &e.Holders
	} else if e, ok := errors.AsType[*protocol.FullError](err); ok {
		holders = &e.Holders
	} else {
		return s.refuse(c, protocol.MethodGet, err, false)
	}
	*holders = s.registry.Visible(&c.Caller, *holders)
	c.Run(func() func() error {
		for i := range *holders {
			(*holders)[i].Command = procfs.Command((*holders)[i].PID)
		}
		return func() error { return s.refuse(c, protocol.MethodGet, err, false) }
	})
	return nil
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
