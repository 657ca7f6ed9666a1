//go:build linux

package broker

import (
	"errors"
	"net"
	"time"
)

// PacketConn is a [net.PacketConn] on a datagram socket that the broker owns and others may receive on too: each
// datagram reaches one of them. Its methods may be called concurrently. It is a [net.Conn] as well, and has the
// methods of an unconnected [net.UDPConn] that other packages look for, such as quic-go and golang.org/x/net/ipv4.
//
// Once the broker has asked this process to leave, all reads return [ErrDrained], at once: a datagram that is queued goes
// to another holder. The grant has ended by then, but WriteTo works until Close, so that the datagrams which were read
// can be answered:
//
//	for {
//		n, from, err := pc.ReadFrom(buf)
//		if err != nil { // ErrDrained is net.ErrClosed too
//			break
//		}
//		...
//	}
//	handlers.Wait() // for their answers
//	pc.Close()
//
// If the broker binds another socket by the name, reads return datagrams of both in turn, until the queue of the old one
// is empty, and everything else acts on the new one. Losing the broker does not disturb a PacketConn; see [Listener].
type PacketConn struct{ *handle }

// receive calls f with the socket to read from until it has read or failed.
func (h *handle) receive(f func(netSocket) error) error {
	h.link.maintain()
	for {
		s, old, brief := h.next()
		if s == nil {
			return h.left()
		}
		err := f(s)
		switch {
		case err == nil:
			return nil
		case old && timedOut(err) && readable(s): // the time passed before it was looked at
		case old:
			h.forget(s)
		case brief && timedOut(err) && !h.expired():
		case h.ended.Load(): // unless datagrams are left in the queue of an old socket
		case h.closed.Load() || s == h.current():
			return err
		}
	}
}

// left returns the error of reading from a PacketConn that receives no more.
func (h *handle) left() error {
	if h.drained.Load() {
		h.link.maintained.Wait() // the grant ends before a read returns
		return &drainedError{"read " + h.name}
	}
	local := h.current().(net.PacketConn).LocalAddr()
	return &net.OpError{Op: "read", Net: local.Network(), Source: local, Err: net.ErrClosed}
}

// ReadFrom waits for the next datagram. After Close the error is [net.ErrClosed], in the sense of [errors.Is]; after a
// drain it is [ErrDrained] as well.
func (c *PacketConn) ReadFrom(b []byte) (n int, from net.Addr, err error) {
	err = c.receive(func(s netSocket) (err error) {
		n, from, err = s.(net.PacketConn).ReadFrom(b)
		return err
	})
	return n, from, err
}

// WriteTo implements [net.PacketConn].
func (c *PacketConn) WriteTo(b []byte, to net.Addr) (n int, err error) {
	err = c.use(func(s netSocket) (err error) {
		n, err = s.(net.PacketConn).WriteTo(b, to)
		return err
	})
	return n, err
}

// CloseRead ends reading as a drain does, but by this process's own decision: it ends the grant, reads return
// [net.ErrClosed], what is queued goes to other holders, and WriteTo works until Close.
func (c *PacketConn) CloseRead() error {
	if c.closed.Load() {
		return c.left()
	}
	c.end(false)
	c.link.release(c.handle)
	return nil
}

// Read is ReadFrom without the sender's address.
func (c *PacketConn) Read(b []byte) (n int, err error) {
	err = c.receive(func(s netSocket) (err error) {
		n, err = s.(net.Conn).Read(b)
		return err
	})
	return n, err
}

// Write implements [net.Conn]. It fails, as that of an unconnected [net.UDPConn] does: use WriteTo.
func (c *PacketConn) Write(b []byte) (n int, err error) {
	err = c.use(func(s netSocket) (err error) {
		n, err = s.(net.Conn).Write(b)
		return err
	})
	return n, err
}

// LocalAddr returns the address that the socket is bound to.
func (c *PacketConn) LocalAddr() net.Addr { return c.NetConn().LocalAddr() }

// RemoteAddr returns nil, because the socket is not connected.
func (c *PacketConn) RemoteAddr() net.Addr { return nil }

// SetDeadline implements [net.PacketConn].
func (c *PacketConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements [net.PacketConn]. It has no effect after a drain or CloseRead.
func (c *PacketConn) SetReadDeadline(t time.Time) error {
	if c.ended.Load() && !c.closed.Load() {
		return nil
	}
	return c.setReadDeadline(t)
}

// SetWriteDeadline implements [net.PacketConn].
func (c *PacketConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.write = t
	return c.socket.(net.PacketConn).SetWriteDeadline(t)
}

// SetReadBuffer sets the size of the socket's receive buffer, which all holders share. A socket that the broker binds
// later does not have it: the option rcvbuf of the listener is the place for it.
func (c *PacketConn) SetReadBuffer(bytes int) error {
	return c.use(func(s netSocket) error { return s.(buffered).SetReadBuffer(bytes) })
}

// SetWriteBuffer sets the size of the socket's send buffer, as SetReadBuffer sets that of the other.
func (c *PacketConn) SetWriteBuffer(bytes int) error {
	return c.use(func(s netSocket) error { return s.(buffered).SetWriteBuffer(bytes) })
}

// buffered is what a [net.UDPConn] and a [net.UnixConn] have.
type buffered interface {
	SetReadBuffer(bytes int) error
	SetWriteBuffer(bytes int) error
}

// NetConn returns the connection that c wraps at the time, a *[net.UDPConn] or a *[net.UnixConn], for packages that
// accept nothing else. Close c, not it.
//
// A program that reads from NetConn must call ReadFrom once, to be asked to leave; NetConn's reads then return
// [net.ErrClosed], and its writes as well. It stays with the socket that it has.
func (c *PacketConn) NetConn() net.PacketConn { return c.current().(net.PacketConn) }
