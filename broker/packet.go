//go:build linux

package broker

import (
	"errors"
	"net"
	"os"
	"syscall"

	"github.com/fdbroker/fdbroker/scmrights"
)

// PacketConn is a [net.PacketConn] on a datagram socket that the broker owns and
// others may receive on too: each datagram reaches one of them. Its methods may
// be called concurrently.
type PacketConn struct {
	net.PacketConn
	name string
	end
}

// newPacketConn takes s and makes a PacketConn of it, which uses l.
func newPacketConn(l *link, s Socket) (*PacketConn, error) {
	if !isPacket(s.Network) {
		_ = s.FD.Close()
		return nil, errStream
	}
	var pc net.PacketConn
	err := s.file(func(f *os.File) (err error) {
		pc, err = net.FilePacketConn(f)
		return err
	})
	if err != nil {
		if pc != nil {
			_ = pc.Close()
		}
		return nil, err
	}
	c := &PacketConn{PacketConn: pc, name: s.Name, end: end{link: l}}
	l.join(c)
	return c, nil
}

// ReadFrom waits for the next datagram. After Close the error is [net.ErrClosed], in
// the sense of [errors.Is]; once the broker has asked to leave it is [ErrDrained] and
// [net.ErrClosed], and the socket is closed. Who reads from NetConn instead is not
// told of that, and has to begin with one ReadFrom to get [net.ErrClosed] then.
func (c *PacketConn) ReadFrom(b []byte) (int, net.Addr, error) {
	c.link.attend()
	n, from, err := c.PacketConn.ReadFrom(b)
	if err != nil && c.drained.Load() {
		err = &drainedError{"read " + c.name}
	}
	return n, from, err
}

// Close makes ReadFrom return, closes this process's descriptor and gives the
// grant back; the other holders do not notice. Closing again returns what the
// first Close did.
func (c *PacketConn) Close() error { return c.close(c.PacketConn) }

// NetConn returns the connection that c wraps, a *[net.UDPConn] or a
// *[net.UnixConn], for what these have besides. Close c, not it.
func (c *PacketConn) NetConn() net.PacketConn { return c.PacketConn }

// Name returns the name that was dialed.
func (c *PacketConn) Name() string { return c.name }

// Grant returns the id of the grant, as "fdclient list" shows it.
func (c *PacketConn) Grant() int64 { return c.link.grant.Load() }

// SyscallConn returns the raw socket; see [Listener.SyscallConn].
func (c *PacketConn) SyscallConn() (syscall.RawConn, error) {
	sc, ok := c.PacketConn.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return sc.SyscallConn()
}

func (c *PacketConn) dialed() (string, bool) { return c.name, !c.closed.Load() }

func (c *PacketConn) drain() {
	c.drained.Store(true)
	c.shut(c.PacketConn)
}

// renew keeps the socket that c has: whoever reads may have it from NetConn.
func (c *PacketConn) renew(s Socket) { _ = s.FD.Close() }

func (c *PacketConn) dup() (*scmrights.FD, error) { return dup(c.PacketConn) }
