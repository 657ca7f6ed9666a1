package server

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/fdbroker/fdbroker/broker/server/conn"
	"github.com/fdbroker/fdbroker/broker/server/peer"
	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// handler answers the calls of control connections. Its methods run on the goroutine of the event loop.
type handler struct{ *Server }

// Caller returns who is behind a new connection.
func (h handler) Caller(c scmrights.Nonblocking, p peer.Credentials) registry.Caller {
	return h.registry.NewCaller(c, p, h.uid)
}

// Closed ends the grant that lasts as long as the connection.
func (h handler) Closed(c *conn.Conn, stopping bool) {
	h.registry.EndConnection(&c.Caller, whyDisconnected(stopping))
}

// Refused logs why a connection is refused or ended.
func (h handler) Refused(c *conn.Conn, err error) { h.logRefused(c, "", err) }

// Paused logs that no connection is accepted for a while.
func (h handler) Paused(err error, wait time.Duration) {
	if errors.Is(err, unix.EMFILE) {
		err = fmt.Errorf("out of file descriptors: control connections wait; raise the limit (ulimit -n, LimitNOFILE=): %w", err)
	}
	h.rarely.Warn().Err(err).Int64("wait_ms", wait.Milliseconds()).Msg("cannot accept connections for now")
}

// Call answers one call.
func (h handler) Call(c *conn.Conn, message []byte, fds []*scmrights.FD) error {
	c.Discard(fds) // once the call is answered
	if p, more, ok := protocol.DecodeGetCall(message); ok && len(fds) == 0 && !c.OneCall {
		return h.get(c, p, more) // as nearly every call is
	}
	m, err := protocol.DecodeCall(message)
	if err != nil {
		return err
	}
	takesFD := m.Method == protocol.MethodPut || m.Method == protocol.MethodAttach
	if len(fds) > 0 && !takesFD {
		return &protocol.MalformedError{Reason: "descriptors that nobody asked for"}
	}
	if c.OneCall && !isShort(m.Method) {
		return h.refuse(c, m.Method, h.descriptors.Exhausted(), m.Oneway)
	}
	k := &call{Server: h.Server, Call: m, conn: c, fds: fds}
	if err := k.answer(); err != nil {
		return k.refuse(err)
	}
	return nil
}

// isShort reports whether a call of the method neither goes on nor carries or hands out a descriptor.
func isShort(method string) bool {
	switch method {
	case protocol.MethodGet, protocol.MethodPut, protocol.MethodAttach, protocol.MethodWatch, protocol.MethodDeploy:
		return false
	}
	return true
}

// answer calls the method, which replies, or returns why the call is refused.
func (k *call) answer() error {
	switch k.Method {
	case protocol.MethodGet:
		return k.getSlow()
	case protocol.MethodList:
		return k.listAll()
	case protocol.MethodWatch:
		return k.watch()
	case protocol.MethodDrain:
		return k.drain()
	case protocol.MethodDeploy:
		return k.deploy()
	case protocol.MethodBind:
		return k.privileged(k.bind)
	case protocol.MethodUnbind:
		return k.privileged(k.unbind)
	case protocol.MethodReload:
		return k.privileged(k.reload)
	case protocol.MethodUpgrade:
		return k.privileged(k.upgrade)
	case protocol.MethodPut:
		return k.privileged(k.put)
	case protocol.MethodAttach:
		return k.attach()
	case protocol.MethodGetInfo:
		return k.info()
	case protocol.MethodGetInterfaceDescription:
		return k.describeInterface()
	}
	name := k.Method
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		name = name[:i]
	}
	if name != protocol.InterfaceName && name != protocol.ServiceInterfaceName {
		return &protocol.InterfaceNotFoundError{Interface: name}
	}
	return &protocol.MethodNotFoundError{Method: k.Method}
}

// privileged calls method for callers with privilege only.
func (k *call) privileged(method func() error) error {
	if !k.conn.Caller.Privileged {
		return &protocol.PermissionDeniedError{}
	}
	return method()
}
