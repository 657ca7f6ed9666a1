//go:build linux

package broker_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

// dialPacket dials a datagram socket; the end of the test closes it.
func (b *testBroker) dialPacket(name string) *broker.PacketConn {
	b.t.Helper()
	pc, err := b.dialer().DialPacket(context.Background(), name)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = pc.Close() })
	return pc
}

// packetSpecs are the kinds of datagram sockets.
func packetSpecs(t *testing.T) map[string]string {
	return map[string]string{
		"udp": "dns=udp://127.0.0.1:0", "udp6": "dns=udp6://[::1]:0", "unixgram": "dns=unixgram://" + filepath.Join(fdtest.SocketDir(t), "g"),
	}
}

// asker returns a socket that can ask, and be answered.
func asker(t *testing.T, to net.Addr) net.Conn {
	t.Helper()
	d := net.Dialer{}
	if to.Network() == "unixgram" {
		d.LocalAddr = &net.UnixAddr{Net: "unixgram", Name: filepath.Join(fdtest.SocketDir(t), "a")}
	}
	c, err := d.Dial(to.Network(), to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

func send(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, c net.Conn) string {
	t.Helper()
	buf := make([]byte, 100)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

// reads are the ways to receive. Those of UDP fail for unixgram.
var reads = map[string]func(*broker.PacketConn, []byte) (int, error){
	"ReadFrom": func(c *broker.PacketConn, b []byte) (int, error) { n, _, err := c.ReadFrom(b); return n, err },
	"Read":     func(c *broker.PacketConn, b []byte) (int, error) { return c.Read(b) },
	"SyscallConn": func(c *broker.PacketConn, b []byte) (n int, err error) {
		rc, err := c.SyscallConn()
		if err != nil {
			return 0, err
		}
		var rerr error
		err = rc.Read(func(fd uintptr) bool {
			n, _, rerr = unix.Recvfrom(int(fd), b, unix.MSG_DONTWAIT)
			return rerr != unix.EAGAIN
		})
		return n, errors.Join(err, os.NewSyscallError("recvfrom", rerr))
	},
	"ReadFromUDP": func(c *broker.PacketConn, b []byte) (int, error) { n, _, err := c.ReadFromUDP(b); return n, err },
	"ReadFromUDPAddrPort": func(c *broker.PacketConn, b []byte) (int, error) {
		n, _, err := c.ReadFromUDPAddrPort(b)
		return n, err
	},
	"ReadMsgUDP": func(c *broker.PacketConn, b []byte) (int, error) {
		n, _, _, _, err := c.ReadMsgUDP(b, nil)
		return n, err
	},
	"ReadMsgUDPAddrPort": func(c *broker.PacketConn, b []byte) (int, error) {
		n, _, _, _, err := c.ReadMsgUDPAddrPort(b, nil)
		return n, err
	},
}

// writes are the ways to send. Those of UDP fail for unixgram.
var writes = map[string]func(c *broker.PacketConn, b []byte, to net.Addr) (int, error){
	"WriteTo": func(c *broker.PacketConn, b []byte, to net.Addr) (int, error) { return c.WriteTo(b, to) },
	"WriteToUDP": func(c *broker.PacketConn, b []byte, to net.Addr) (int, error) {
		u, _ := to.(*net.UDPAddr)
		return c.WriteToUDP(b, u)
	},
	"WriteToUDPAddrPort": func(c *broker.PacketConn, b []byte, to net.Addr) (int, error) {
		return c.WriteToUDPAddrPort(b, addrPort(to))
	},
	"WriteMsgUDP": func(c *broker.PacketConn, b []byte, to net.Addr) (int, error) {
		u, _ := to.(*net.UDPAddr)
		n, _, err := c.WriteMsgUDP(b, nil, u)
		return n, err
	},
	"WriteMsgUDPAddrPort": func(c *broker.PacketConn, b []byte, to net.Addr) (int, error) {
		n, _, err := c.WriteMsgUDPAddrPort(b, nil, addrPort(to))
		return n, err
	},
}

func addrPort(a net.Addr) netip.AddrPort {
	u, _ := a.(*net.UDPAddr)
	return u.AddrPort()
}

// ofUDP reports whether a way to receive or send is one of UDP only.
func ofUDP(way string) bool {
	return !slices.Contains([]string{"ReadFrom", "Read", "SyscallConn", "WriteTo"}, way)
}

// TestPacketReads: each way to receive receives, is ended by a drain and by Close, and says which of the two it was.
func TestPacketReads(t *testing.T) {
	for kind, spec := range packetSpecs(t) {
		for way, read := range reads {
			t.Run(kind+", "+way, func(t *testing.T) {
				fdtest.CheckLeaks(t)
				b := startBroker(t, spec)
				if kind == "unixgram" && ofUDP(way) {
					if _, err := read(b.dialPacket("dns"), make([]byte, 10)); !errors.Is(err, errors.ErrUnsupported) {
						t.Errorf("got %v, want ErrUnsupported", err)
					}
					return
				}
				for _, end := range []string{"drain", "CloseRead", "Close"} {
					pc := b.dialPacket("dns")
					send(t, asker(t, pc.LocalAddr()), "hello")
					buf := make([]byte, 10)
					if n, err := read(pc, buf); err != nil || string(buf[:n]) != "hello" {
						t.Errorf("got %q, %v", buf[:n], err)
					}
					over := make(chan error)
					go func() { _, err := read(pc, buf); over <- err }()
					if end == "drain" {
						b.drain(broker.DrainOptions{}, "dns")
						wantDrained(t, <-over)
						b.waitHolders("dns", 0)
						_, err := read(pc, buf)
						wantDrained(t, err)
					} else {
						if end == "Close" {
							_ = pc.Close()
						} else if err := pc.CloseRead(); err != nil {
							t.Error(err)
						}
						b.waitHolders("dns", 0)
						if err := <-over; !errors.Is(err, net.ErrClosed) || errors.Is(err, broker.ErrDrained) {
							t.Errorf("after %s: got %v", end, err)
						}
					}
					_ = pc.Close()
				}
			})
		}
	}
}

// TestPacketAnswersAfterDrain: what was read is answered after a drain, in each way, until Close. What is queued goes to
// another holder.
func TestPacketAnswersAfterDrain(t *testing.T) {
	for kind, spec := range packetSpecs(t) {
		for way, write := range writes {
			t.Run(kind+", "+way, func(t *testing.T) {
				fdtest.CheckLeaks(t)
				b := startBroker(t, spec)
				pc := b.dialPacket("dns")
				c := asker(t, pc.LocalAddr())
				send(t, c, "one")
				buf := make([]byte, 10)
				_, from, err := pc.ReadFrom(buf)
				if err != nil {
					t.Fatal(err)
				}
				if kind == "unixgram" && ofUDP(way) {
					if _, err := write(pc, nil, from); !errors.Is(err, errors.ErrUnsupported) {
						t.Errorf("got %v, want ErrUnsupported", err)
					}
					return
				}
				wantEnd := wantDrained
				if len(way)%2 == 0 { // for some of them
					wantEnd = wantClosed
					if err := pc.CloseRead(); err != nil {
						t.Error(err)
					}
				} else {
					b.drain(broker.DrainOptions{}, "dns")
				}
				b.waitHolders("dns", 0)
				send(t, c, "two")
				_ = pc.SetReadDeadline(time.Now().Add(time.Hour)) // as a program may, before each read
				_, _, err = pc.ReadFrom(buf)
				wantEnd(t, err)
				if n, err := write(pc, []byte("one"), from); n != 3 || err != nil {
					t.Errorf("wrote %d bytes, %v", n, err)
				}
				if got := receive(t, c); got != "one" {
					t.Errorf("got the answer %q", got)
				}
				next := b.dialPacket("dns")
				if n, _, err := next.ReadFrom(buf); err != nil || string(buf[:n]) != "two" {
					t.Errorf("the next holder got %q, %v", buf[:n], err)
				}
				if err := pc.Close(); err != nil {
					t.Error(err)
				}
				if _, err := write(pc, []byte("late"), from); !errors.Is(err, net.ErrClosed) {
					t.Errorf("after Close: got %v", err)
				}
				_, _, err = pc.ReadFrom(buf)
				wantEnd(t, err)
			})
		}
	}
}

// wantClosed is wantDrained of a process's own decision.
func wantClosed(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, broker.ErrDrained) || !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want net.ErrClosed", err)
	}
}

// TestCloseReadOfOne: the grant of sockets that were dialed together lasts until the last of them has ended.
func TestCloseReadOfOne(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "a=udp://127.0.0.1:0", "b=udp://127.0.0.1:0")
	all, err := b.dialer().DialPackets(context.Background(), "a", "b")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(all[0].CloseRead(), all[0].CloseRead()); err != nil {
		t.Error(err)
	}
	b.waitHolders("a", 1)
	if err := all[0].Close(); err != nil {
		t.Error(err)
	}
	if err := all[0].CloseRead(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: got %v", err)
	}
	send(t, asker(t, all[1].LocalAddr()), "hello")
	buf := make([]byte, 10)
	if n, _, err := all[1].ReadFrom(buf); err != nil || string(buf[:n]) != "hello" {
		t.Errorf("got %q, %v", buf[:n], err)
	}
	b.drain(broker.DrainOptions{}, "b")
	_, _, err = all[1].ReadFrom(buf)
	wantDrained(t, err)
	b.waitHolders("a", 0)
	_ = all[1].Close()
}

// TestPacketDrainEndsNetConn: a program that reads from NetConn, and sets a deadline each time, notices a drain too.
func TestPacketDrainEndsNetConn(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "dns=udp://127.0.0.1:0")
	pc := b.dialPacket("dns")
	over := make(chan error)
	go func() { _, _, err := pc.ReadFrom(make([]byte, 1)); over <- err }()
	netConn := pc.NetConn()
	ended := make(chan error)
	go func() {
		for {
			_ = netConn.SetReadDeadline(time.Now().Add(time.Hour))
			if _, _, err := netConn.ReadFrom(make([]byte, 1)); err != nil && !isTimeout(err) {
				ended <- err
				return
			}
		}
	}()
	b.drain(broker.DrainOptions{}, "dns")
	wantDrained(t, <-over)
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if _, _, err := pc.NetConn().ReadFrom(make([]byte, 1)); !isTimeout(err) {
		t.Errorf("of a NetConn after the drain: got %v", err)
	}
}

// TestPacketIsConn: Write and RemoteAddr are those of an unconnected net.UDPConn.
func TestPacketIsConn(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "dns=udp://127.0.0.1:0")
	pc := b.dialPacket("dns")
	is, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer is.Close()
	_, want := is.(net.Conn).Write([]byte("x"))
	if _, err := pc.Write([]byte("x")); !errors.Is(err, syscall.EDESTADDRREQ) || !errors.Is(want, syscall.EDESTADDRREQ) {
		t.Errorf("Write: got %v, want %v", err, want)
	}
	if got, want := pc.RemoteAddr(), is.(net.Conn).RemoteAddr(); got != want {
		t.Errorf("RemoteAddr: got %v, want %v", got, want)
	}
}

// bufferOf returns a size of the socket's, as set.
func bufferOf(t *testing.T, c syscall.Conn, option int) (size int) {
	t.Helper()
	rc, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if cerr := rc.Control(func(fd uintptr) { size, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, option) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return size / 2 // the kernel doubles it
}

// TestPacketRenewed: after the broker has bound another socket by the name, everything acts on that, also a raw
// connection from before.
func TestPacketRenewed(t *testing.T) {
	for way, read := range reads {
		t.Run(way, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			b := startBroker(t, "dns=udp://127.0.0.1:0")
			pc := b.dialPacket("dns")
			got := make(chan string)
			quit := make(chan struct{})
			go func() {
				defer close(quit)
				buf := make([]byte, 100)
				for {
					n, err := read(pc, buf)
					if err != nil {
						return
					}
					got <- string(buf[:n])
				}
			}()
			raw, err := pc.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			was := asker(t, pc.LocalAddr())
			send(t, was, "was")
			if text := <-got; text != "was" {
				t.Errorf("got %q", text)
			}
			if err := b.server.Unbind("dns"); err != nil {
				t.Fatal(err)
			}
			b.bind("dns=udp://127.0.0.1:0")
			is := b.listener("dns")
			fdtest.Eventually(t, "it is at the new address", func() bool { return pc.LocalAddr().String() == is.Address })
			send(t, asker(t, pc.LocalAddr()), "is")
			if text := <-got; text != "is" {
				t.Errorf("got %q", text)
			}
			var cookie uint64
			err = raw.Control(func(fd uintptr) { cookie, _ = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE) })
			if err != nil || cookie != is.Cookie {
				t.Errorf("the raw connection is that of socket %d, want %d; %v", cookie, is.Cookie, err)
			}
			if err := errors.Join(pc.SetReadBuffer(10000), pc.SetWriteBuffer(20000)); err != nil {
				t.Error(err)
			}
			if r, w := bufferOf(t, pc, unix.SO_RCVBUF), bufferOf(t, pc, unix.SO_SNDBUF); r != 10000 || w != 20000 {
				t.Errorf("got buffers of %d and %d bytes", r, w)
			}
			_ = pc.Close()
			<-quit
		})
	}
}

// TestPacketEndsAtOnce: a drain, renewals, writes and Close at the same time leave nothing behind, and each read ends
// with net.ErrClosed.
func TestPacketEndsAtOnce(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "dns=udp://127.0.0.1:0")
	client := b.client()
	for i := range 60 {
		pc := b.dialPacket("dns")
		to := pc.LocalAddr()
		var readers, others sync.WaitGroup
		for way, read := range reads {
			readers.Go(func() {
				for buf := make([]byte, 10); ; {
					if _, err := read(pc, buf); err != nil {
						if !errors.Is(err, net.ErrClosed) {
							t.Errorf("%s: %v", way, err)
						}
						return
					}
				}
			})
		}
		for way, write := range writes {
			others.Go(func() {
				for range 20 {
					if _, err := write(pc, []byte("x"), to); err != nil && !errors.Is(err, net.ErrClosed) {
						t.Errorf("%s: %v", way, err)
					}
				}
			})
		}
		others.Go(func() {
			if err := b.server.Unbind("dns"); err != nil {
				t.Error(err)
			}
			b.bind("dns=udp://127.0.0.1:0")
		})
		others.Go(func() { _ = pc.SetDeadline(time.Time{}) })
		if i%4 == 0 {
			others.Go(func() { _ = pc.CloseRead() })
		}
		if i%3 != 0 {
			others.Go(func() {
				if _, err := client.Drain(context.Background(), broker.DrainOptions{}, "dns"); err != nil && !errors.Is(err, broker.ErrUnknownName) {
					t.Error(err)
				}
			})
		}
		if i%3 != 1 {
			others.Go(func() { _ = pc.Close() })
		}
		others.Wait()
		_ = pc.Close()
		readers.Wait()
	}
	b.waitHolders("dns", 0)
}

func TestPacketReadsDoNotAllocate(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "dns=udp://127.0.0.1:0")
	pc := b.dialPacket("dns")
	buf, to := make([]byte, 10), addrPort(pc.LocalAddr())
	if n := testing.AllocsPerRun(100, func() {
		if _, err := pc.WriteToUDPAddrPort(buf, to); err != nil {
			t.Fatal(err)
		}
		if _, _, err := pc.ReadFromUDPAddrPort(buf); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("a datagram sent and received makes %v allocations", n)
	}
}
