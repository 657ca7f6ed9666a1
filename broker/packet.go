//go:build linux

package broker

import (
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/fdbroker/fdbroker/scmrights"
)

// PacketConn is a [net.PacketConn] on a datagram socket that the broker owns and
// others may receive on too: each datagram reaches one of them. Its methods may
// be called concurrently.
//
// Losing the broker does not disturb it; see [Listener].
type PacketConn struct {
	name string
	end

	mu          sync.Mutex
	pc          net.PacketConn
	past        []net.PacketConn // that the broker had before, until nothing is queued there
	read, write time.Time        // deadlines, for the next socket
}

// newPacketConn takes s and makes a PacketConn of it, which uses l.
func newPacketConn(l *link, s Socket) (*PacketConn, error) {
	pc, err := packetConnOf(s)
	if err != nil {
		return nil, err
	}
	c := &PacketConn{name: s.Name, end: end{link: l}, pc: pc}
	l.join(c)
	return c, nil
}

// packetConnOf takes s and returns it as a net.PacketConn.
func packetConnOf(s Socket) (pc net.PacketConn, err error) {
	if !isPacket(s.Network) {
		_ = s.FD.Close()
		return nil, errStream
	}
	err = s.file(func(f *os.File) (err error) {
		pc, err = net.FilePacketConn(f)
		return err
	})
	if err != nil {
		if pc != nil {
			_ = pc.Close()
		}
		return nil, err
	}
	return pc, nil
}

// ReadFrom waits for the next datagram. After Close the error is [net.ErrClosed], in
// the sense of [errors.Is]; once the broker has asked to leave it is [ErrDrained] and
// [net.ErrClosed], and the socket is closed. Where the broker has another socket by the
// name one day, ReadFrom returns what is queued at the old one and goes on with the new
// one. Who reads from NetConn instead has to begin with one ReadFrom to be asked to leave,
// gets [net.ErrClosed] then, and stays with the socket that it has.
func (c *PacketConn) ReadFrom(b []byte) (int, net.Addr, error) {
	c.link.attend()
	for {
		pc, past := c.current()
		if past != nil {
			_ = past.SetReadDeadline(time.Now().Add(pastTime))
			if n, from, err := past.ReadFrom(b); err == nil {
				return n, from, nil
			}
			c.forget(past)
			continue
		}
		n, from, err := pc.ReadFrom(b)
		if err == nil {
			return n, from, nil
		}
		switch now, _ := c.current(); {
		case c.drained.Load():
			return n, from, &drainedError{"read " + c.name}
		case c.closed.Load() || now == pc:
			return n, from, err
		}
	}
}

// current returns the socket to receive on and, where there is one, an older one that is
// first.
func (c *PacketConn) current() (pc, past net.PacketConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.past) > 0 {
		past = c.past[0]
	}
	return c.pc, past
}

// forget closes a socket of the past.
func (c *PacketConn) forget(past net.PacketConn) {
	_ = past.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.past = slices.DeleteFunc(c.past, func(pc net.PacketConn) bool { return pc == past })
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
	return c.pc.SetReadDeadline(t)
}

// SetWriteDeadline implements [net.PacketConn].
func (c *PacketConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.write = t
	return c.pc.SetWriteDeadline(t)
}

// Close makes ReadFrom return, closes this process's descriptor and gives the
// grant back; the other holders do not notice. Closing again returns what the
// first Close did.
func (c *PacketConn) Close() error { return c.close(connsOf{c}) }

// connsOf closes the sockets that a PacketConn has at the time.
type connsOf struct{ c *PacketConn }

func (s connsOf) Close() error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	for _, past := range s.c.past {
		_ = past.Close()
	}
	return s.c.pc.Close()
}

// NetConn returns the connection that c wraps at the time, a *[net.UDPConn] or a
// *[net.UnixConn], for what these have besides. Close c, not it.
func (c *PacketConn) NetConn() net.PacketConn {
	pc, _ := c.current()
	return pc
}

// Name returns the name that was dialed.
func (c *PacketConn) Name() string { return c.name }

// Grant returns the id of the grant, as "fdclient list" shows it.
func (c *PacketConn) Grant() int64 { return c.link.grant.Load() }

// SyscallConn returns the raw socket; see [Listener.SyscallConn].
func (c *PacketConn) SyscallConn() (syscall.RawConn, error) {
	sc, ok := c.NetConn().(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return sc.SyscallConn()
}

func (c *PacketConn) dialed() (string, bool) { return c.name, !c.closed.Load() }

func (c *PacketConn) drain() {
	c.drained.Store(true)
	c.shut(connsOf{c})
}

// renew takes s. Where that is another socket than c has, ReadFrom goes on with s, after
// what is queued at the old one.
func (c *PacketConn) renew(s Socket) {
	pc := c.NetConn()
	if same(pc, s.FD) {
		_ = s.FD.Close()
		return
	}
	next, err := packetConnOf(s)
	if err != nil {
		return // it goes on with what it has
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() { // Close has met the old one, or is about to
		_ = next.Close()
		return
	}
	_, _ = next.SetReadDeadline(c.read), next.SetWriteDeadline(c.write)
	c.pc, c.past = next, append(c.past, pc)
	_ = pc.SetReadDeadline(time.Unix(1, 0)) // ReadFrom looks around
}

func (c *PacketConn) dup() (*scmrights.FD, error) { return dup(c.NetConn()) }
