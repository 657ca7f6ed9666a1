//go:build linux

package broker

import (
	"errors"
	"net"
	"time"
)

// PacketConn is a [net.PacketConn] on a datagram socket that the broker owns and others may receive on too: each
// datagram reaches one of them. Its methods may be called concurrently.
//
// Losing the broker does not disturb it; see [Listener].
type PacketConn struct{ *handle }

// ReadFrom waits for the next datagram. After Close the error is [net.ErrClosed], in the sense of [errors.Is]. Once the
// broker has asked this process to leave, it is [ErrDrained] as well, and the socket is closed. If the broker binds
// another socket by the name, ReadFrom first returns the datagrams that are queued at the old one.
//
// A program that reads from NetConn instead must call ReadFrom once, to be asked to leave;
// NetConn's reads then return [net.ErrClosed]. It stays with the socket that it has.
func (c *PacketConn) ReadFrom(b []byte) (int, net.Addr, error) {
	c.link.maintain()
	for {
		pc, old := c.next()
		n, from, err := pc.(net.PacketConn).ReadFrom(b)
		switch {
		case err == nil:
			return n, from, nil
		case old:
			c.forget(pc)
		case c.drained.Load():
			c.link.maintained.Wait() // as Accept does
			return n, from, &drainedError{"read " + c.name}
		case c.closed.Load() || pc == c.current():
			return n, from, err
		}
	}
}

// WriteTo implements [net.PacketConn].
func (c *PacketConn) WriteTo(b []byte, to net.Addr) (int, error) { return c.NetConn().WriteTo(b, to) }

// LocalAddr returns the address that the socket is bound to.
func (c *PacketConn) LocalAddr() net.Addr { return c.NetConn().LocalAddr() }

// SetDeadline implements [net.PacketConn].
func (c *PacketConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements [net.PacketConn].
func (c *PacketConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read = t
	return c.socket.(net.PacketConn).SetReadDeadline(t)
}

// SetWriteDeadline implements [net.PacketConn].
func (c *PacketConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.write = t
	return c.socket.(net.PacketConn).SetWriteDeadline(t)
}

// NetConn returns the connection that c wraps at the time, a *[net.UDPConn] or a
// *[net.UnixConn], for their other methods. Close c, not it.
func (c *PacketConn) NetConn() net.PacketConn { return c.current().(net.PacketConn) }
