package server

import (
	"github.com/fdbroker/fdbroker/broker/server/conn"
	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

func whyDisconnected(stopping bool) string {
	if stopping {
		return registry.EndStop
	}
	return registry.EndDisconnected
}

// call is one call of any method but a plain Get.
type call struct {
	*Server
	protocol.Call
	conn *conn.Conn
	fds  []*scmrights.FD // borrowed until the reply is sent
}

// reply sends a reply, unless the caller wants none.
func (k *call) reply(parameters any, continues bool) error {
	if k.Oneway {
		return nil
	}
	b, err := protocol.AppendReply(nil, parameters, continues)
	if err != nil {
		return err
	}
	return k.conn.Send(b)
}

// run calls method in a goroutine, since it may block, and sends its reply.
func (k *call) run(method func() (reply any, err error)) error {
	k.conn.Run(func() func() error {
		reply, err := method()
		if err != nil {
			return func() error { return k.refuse(err) }
		}
		b, err := protocol.AppendReply(nil, reply, false)
		return func() error {
			if err != nil || k.Oneway {
				return err
			}
			return k.conn.Send(b)
		}
	})
	return nil
}

// refuse replies with an error, and logs it. What it returns ends the connection.
func (k *call) refuse(err error) error { return k.Server.refuse(k.conn, k.Method, err, k.Oneway) }

// refuse replies with an error, unless the caller wants no reply, and logs it.
func (s *Server) refuse(c *conn.Conn, method string, err error, oneway bool) error {
	if conn.Ends(err) {
		return err
	}
	s.logRefused(c, method, err)
	if oneway {
		return nil
	}
	return c.SendError(err)
}

// checkNames checks the names of a call: some, not too many, none twice.
func (s *Server) checkNames(names []string) error {
	most := s.cfg.MaxNamesInCall
	switch {
	case len(names) == 0:
		return &protocol.InvalidParameterError{Parameter: "names"}
	case len(names) > most:
		return &protocol.LimitError{Limit: "names in one call", Max: most}
	case len(names) == 1:
		return nil
	}
	seen := make(map[string]bool, len(names))
	for _, name := range names {
		if seen[name] {
			return &protocol.InvalidParameterError{Parameter: "names"}
		}
		seen[name] = true
	}
	return nil
}
