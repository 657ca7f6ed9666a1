//go:build linux

package broker

import (
	"net"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// lateListener and latePacketConn look at their sockets for the first time when the time for that has passed, as on a
// machine that is busy.
type lateListener struct {
	*net.TCPListener
	late *time.Duration
}

func (l lateListener) Accept() (net.Conn, error) {
	beLate(l.late)
	return l.TCPListener.Accept()
}

type latePacketConn struct {
	*net.UDPConn
	late *time.Duration
}

func (c latePacketConn) ReadFrom(b []byte) (int, net.Addr, error) {
	beLate(c.late)
	return c.UDPConn.ReadFrom(b)
}

func beLate(by *time.Duration) {
	time.Sleep(*by) // as a goroutine that is scheduled late
	*by = 0
}

// TestOldSocketLate: what is queued at an old socket is received, even if receiving begins late.
func TestOldSocketLate(t *testing.T) {
	t.Run("listener", func(t *testing.T) {
		fdtest.CheckLeaks(t)
		old, current := listenTCP(t), listenTCP(t)
		l := &Listener{handle: &handle{link: &link{closed: true}, socket: current, old: []netSocket{lateListener{old, new(4 * oldWait)}}}}
		defer l.Close()
		client, err := net.Dial("tcp", old.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		_ = l.SetDeadline(time.Now().Add(fdtest.Long(5 * time.Second)))
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	})
	t.Run("packet", func(t *testing.T) {
		fdtest.CheckLeaks(t)
		old, current := listenUDP(t), listenUDP(t)
		c := &PacketConn{&handle{packet: true, link: &link{closed: true}, socket: current, old: []netSocket{latePacketConn{old, new(4 * oldWait)}}}}
		defer c.Close()
		if _, err := current.WriteTo([]byte("x"), old.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(fdtest.Long(5 * time.Second)))
		if _, _, err := c.ReadFrom(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	})
}

func listenTCP(t *testing.T) *net.TCPListener {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func listenUDP(t *testing.T) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
