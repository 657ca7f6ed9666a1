//go:build linux

package broker

import (
	"net"
	"net/netip"
	"syscall"
)

// The methods of an unconnected UDPConn. They fail for unixgram.

// ReadFromUDP is ReadFrom with a [net.UDPAddr].
func (c *PacketConn) ReadFromUDP(b []byte) (n int, from *net.UDPAddr, err error) {
	err = c.receive(func(s netSocket) error {
		u, err := asUDP(s, "read")
		if err == nil {
			n, from, err = u.ReadFromUDP(b)
		}
		return err
	})
	return n, from, err
}

// ReadFromUDPAddrPort is ReadFrom with a [netip.AddrPort]. It does not allocate.
func (c *PacketConn) ReadFromUDPAddrPort(b []byte) (n int, from netip.AddrPort, err error) {
	err = c.receive(func(s netSocket) error {
		u, err := asUDP(s, "read")
		if err == nil {
			n, from, err = u.ReadFromUDPAddrPort(b)
		}
		return err
	})
	return n, from, err
}

// ReadMsgUDP is like ReadFrom. It also copies the associated out-of-band data into oob, and returns the flags of the
// message.
func (c *PacketConn) ReadMsgUDP(b, oob []byte) (n, oobn, flags int, from *net.UDPAddr, err error) {
	err = c.receive(func(s netSocket) error {
		u, err := asUDP(s, "read")
		if err == nil {
			n, oobn, flags, from, err = u.ReadMsgUDP(b, oob)
		}
		return err
	})
	return n, oobn, flags, from, err
}

// ReadMsgUDPAddrPort is ReadMsgUDP with a [netip.AddrPort].
func (c *PacketConn) ReadMsgUDPAddrPort(b, oob []byte) (n, oobn, flags int, from netip.AddrPort, err error) {
	err = c.receive(func(s netSocket) error {
		u, err := asUDP(s, "read")
		if err == nil {
			n, oobn, flags, from, err = u.ReadMsgUDPAddrPort(b, oob)
		}
		return err
	})
	return n, oobn, flags, from, err
}

// WriteToUDP is WriteTo with a [net.UDPAddr].
func (c *PacketConn) WriteToUDP(b []byte, to *net.UDPAddr) (n int, err error) {
	err = c.use(func(s netSocket) error {
		u, err := asUDP(s, "write")
		if err == nil {
			n, err = u.WriteToUDP(b, to)
		}
		return err
	})
	return n, err
}

// WriteToUDPAddrPort is WriteTo with a [netip.AddrPort]. It does not allocate.
func (c *PacketConn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (n int, err error) {
	err = c.use(func(s netSocket) error {
		u, err := asUDP(s, "write")
		if err == nil {
			n, err = u.WriteToUDPAddrPort(b, to)
		}
		return err
	})
	return n, err
}

// WriteMsgUDP is like WriteTo, with out-of-band data.
func (c *PacketConn) WriteMsgUDP(b, oob []byte, to *net.UDPAddr) (n, oobn int, err error) {
	err = c.use(func(s netSocket) error {
		u, err := asUDP(s, "write")
		if err == nil {
			n, oobn, err = u.WriteMsgUDP(b, oob, to)
		}
		return err
	})
	return n, oobn, err
}

// WriteMsgUDPAddrPort is WriteMsgUDP with a [netip.AddrPort].
func (c *PacketConn) WriteMsgUDPAddrPort(b, oob []byte, to netip.AddrPort) (n, oobn int, err error) {
	err = c.use(func(s netSocket) error {
		u, err := asUDP(s, "write")
		if err == nil {
			n, oobn, err = u.WriteMsgUDPAddrPort(b, oob, to)
		}
		return err
	})
	return n, oobn, err
}

// asUDP returns s as a UDP socket, or the error of the operation op.
func asUDP(s netSocket, op string) (*net.UDPConn, error) {
	if u, ok := s.(*net.UDPConn); ok {
		return u, nil
	}
	local := s.(net.PacketConn).LocalAddr()
	return nil, &net.OpError{Op: op, Net: local.Network(), Source: local, Err: syscall.EOPNOTSUPP}
}

// udpConn is what packages that know [net.UDPConn] look for in a connection.
type udpConn interface {
	net.Conn
	net.PacketConn
	syscall.Conn
	SetReadBuffer(bytes int) error
	SetWriteBuffer(bytes int) error
	ReadFromUDP(b []byte) (int, *net.UDPAddr, error)
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	ReadMsgUDP(b, oob []byte) (n, oobn, flags int, from *net.UDPAddr, err error)
	ReadMsgUDPAddrPort(b, oob []byte) (n, oobn, flags int, from netip.AddrPort, err error)
	WriteToUDP(b []byte, to *net.UDPAddr) (int, error)
	WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
	WriteMsgUDP(b, oob []byte, to *net.UDPAddr) (n, oobn int, err error)
	WriteMsgUDPAddrPort(b, oob []byte, to netip.AddrPort) (n, oobn int, err error)
}

var (
	_ udpConn = (*PacketConn)(nil)
	_ udpConn = (*net.UDPConn)(nil)
)
