package socket_test

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

// TestServe opens a socket of each network and has a client served through a duplicate of it, as a worker would.
func TestServe(t *testing.T) {
	dir := fdtest.SocketDir(t)
	for _, test := range []struct{ spec, network, host, address string }{
		{"a=:0", "tcp", "", "[::]"},
		{"a=localhost:0", "tcp", "", "127.0.0.1"},
		{"a=tcp4://:0", "tcp4", "127.0.0.1", "0.0.0.0"},
		{"a=tcp6://:0", "tcp6", "::1", "[::]"},
		{"a=127.0.0.1:0", "tcp", "", "127.0.0.1"},
		{"a=[::1]:0", "tcp", "", "[::1]"},
		{"a=udp://:0", "udp", "127.0.0.1", "[::]"},
		{"a=udp4://127.0.0.1:0", "udp4", "", "127.0.0.1"},
		{"a=udp6://[::1]:0", "udp6", "", "[::1]"},
		{"a=unix://" + dir + "/s", "unix", "", dir + "/s"},
		{"a=unixpacket://" + dir + "/p", "unixpacket", "", dir + "/p"},
		{"a=unixgram://" + dir + "/g", "unixgram", "", dir + "/g"},
		{"a=unix://@fdbroker-test-serve", "unix", "", "@fdbroker-test-serve"},
		{"a=unixgram://@fdbroker-test-serve-g", "unixgram", "", "@fdbroker-test-serve-g"},
	} {
		t.Run(test.spec, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			sock := open(t, test.spec)
			address := sock.Address()
			if strings.HasPrefix(test.network, "unix") {
				if address != test.address {
					t.Errorf("Address: got %q, want %q", address, test.address)
				}
			} else if got := strings.TrimSuffix(address, portOf(address)); got != test.address || portOf(address) == ":0" {
				t.Errorf("Address: got %q, want %q and a port", address, test.address)
			}
			if test.host != "" {
				address = net.JoinHostPort(test.host, portOf(address)[1:])
			}
			if sock.Packet() {
				servePacket(t, sock, test.network, address)
			} else {
				serveConnection(t, sock, test.network, address)
			}
			checkBirth(t, sock)
		})
	}
}

func serveConnection(t *testing.T, sock *socket.Socket, network, address string) {
	t.Helper()
	c := dial(t, network, address)
	a, err := listener(t, sock).Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(a, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

func servePacket(t *testing.T, sock *socket.Socket, network, address string) {
	t.Helper()
	if _, err := dial(t, network, address).Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, _, err := packetConn(t, sock).ReadFrom(make([]byte, 9)); n != 1 || err != nil {
		t.Fatalf("got %d bytes, %v", n, err)
	}
}

// checkBirth checks the flags and options of every new socket.
func checkBirth(t *testing.T, sock *socket.Socket) {
	t.Helper()
	control(t, sock, func(fd int) {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("not close-on-exec (%v)", err)
		}
		if cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE); err != nil || cookie != sock.Cookie() || cookie == 0 {
			t.Errorf("Cookie: got %d, want %d (%v)", sock.Cookie(), cookie, err)
		}
	})
	if blocking, err := sock.Blocking(); blocking || err != nil {
		t.Errorf("Blocking: got %v, %v", blocking, err)
	}
	if strings.HasPrefix(sock.Network(), "unix") {
		return
	}
	want := 0
	if strings.HasPrefix(sock.Network(), "tcp") {
		want = 1
		if got := sockopt(t, sock, unix.SOL_SOCKET, unix.SO_PROTOCOL); got != unix.IPPROTO_TCP {
			t.Errorf("protocol: got %d, want plain TCP", got)
		}
	}
	if got := sockopt(t, sock, unix.SOL_SOCKET, unix.SO_REUSEADDR); got != want {
		t.Errorf("SO_REUSEADDR: got %d, want %d", got, want)
	}
	if got := sockopt(t, sock, unix.SOL_SOCKET, unix.SO_REUSEPORT); got != 0 {
		t.Errorf("SO_REUSEPORT: got %d, want 0", got)
	}
}

func TestDualStack(t *testing.T) {
	fdtest.CheckLeaks(t)
	sock := open(t, "a=:0")
	port := portOf(sock.Address())
	dial(t, "tcp", "127.0.0.1"+port)
	dial(t, "tcp", "[::1]"+port)
	only := open(t, "a=:0,v6only")
	port = portOf(only.Address())
	dial(t, "tcp", "[::1]"+port)
	for _, s := range []struct {
		sock *socket.Socket
		want int
	}{{sock, 0}, {only, 1}, {open(t, "a=tcp6://:0"), 1}, {open(t, "a=[::]:0"), 0}} {
		if got := sockopt(t, s.sock, unix.SOL_IPV6, unix.IPV6_V6ONLY); got != s.want {
			t.Errorf("%s: IPV6_V6ONLY is %d, want %d", s.sock.Spec(), got, s.want)
		}
	}
}

// TestPortZeroKeepsItsNumber shuts the socket down as a worker might, and makes it listen again.
func TestPortZeroKeepsItsNumber(t *testing.T) {
	for _, spec := range []string{"a=:0", "a=127.0.0.1:0", "a=tcp6://[::1]:0"} {
		fdtest.CheckLeaks(t)
		sock := open(t, spec)
		control(t, sock, func(fd int) {
			if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil {
				t.Fatal(err)
			}
			if err := unix.Listen(fd, 1); err != nil {
				t.Fatal(err)
			}
		})
		if got := listener(t, sock).Addr().String(); got != sock.Address() {
			t.Errorf("%s: got %s after listening again, want %s", spec, got, sock.Address())
		}
	}
}

func TestOptions(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for the options mark and transparent")
	}
	for _, spec := range []string{"a=127.0.0.1:0", "a=[::1]:0"} {
		fdtest.CheckLeaks(t)
		sock := open(t, spec+",freebind,transparent,device=lo,mark=4294967295,defer-accept=7s,fastopen=5,nodelay,keepalive,blocking,backlog=7")
		freebind, transparent, level := unix.IP_FREEBIND, unix.IP_TRANSPARENT, unix.SOL_IP
		if spec == "a=[::1]:0" {
			freebind, transparent, level = unix.IPV6_FREEBIND, unix.IPV6_TRANSPARENT, unix.SOL_IPV6
		}
		for _, test := range []struct {
			name                string
			level, option, want int
		}{
			{"freebind", level, freebind, 1},
			{"transparent", level, transparent, 1},
			{"mark", unix.SOL_SOCKET, unix.SO_MARK, -1},
			{"defer-accept", unix.SOL_TCP, unix.TCP_DEFER_ACCEPT, 7},
			{"fastopen", unix.SOL_TCP, unix.TCP_FASTOPEN, 5},
			{"nodelay", unix.SOL_TCP, unix.TCP_NODELAY, 1},
			{"keepalive", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		} {
			if got := sockopt(t, sock, test.level, test.option); uint32(got) != uint32(test.want) {
				t.Errorf("%s %s: got %d, want %d", spec, test.name, got, test.want)
			}
		}
		control(t, sock, func(fd int) {
			if got, err := unix.GetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE); got != "lo" || err != nil {
				t.Errorf("%s device: got %q, %v", spec, got, err)
			}
		})
		if blocking, err := sock.Blocking(); !blocking || err != nil {
			t.Errorf("%s Blocking: got %v, %v", spec, blocking, err)
		}
		if sock.Backlog() != 7 {
			t.Errorf("%s Backlog: got %d, want 7", spec, sock.Backlog())
		}
	}
}

func TestFreeBind(t *testing.T) {
	fdtest.CheckLeaks(t)
	be := refused(t, "a=203.0.113.7:0")
	if !errors.Is(be, unix.EADDRNOTAVAIL) || !strings.Contains(be.Error(), "no interface of this machine has the address 203.0.113.7") {
		t.Errorf("got %v", be)
	}
	open(t, "a=203.0.113.7:0,freebind")
}

func TestSetBlocking(t *testing.T) {
	fdtest.CheckLeaks(t)
	sock := open(t, "a=127.0.0.1:0")
	for _, want := range []bool{true, false} {
		if err := sock.SetBlocking(want); err != nil {
			t.Fatal(err)
		}
		if got, err := sock.Blocking(); got != want || err != nil {
			t.Errorf("got %v, %v, want %v", got, err, want)
		}
	}
}

func TestClose(t *testing.T) {
	fdtest.CheckLeaks(t)
	for _, text := range []string{"a=127.0.0.1:0", "a=udp://127.0.0.1:0", "a=unix://" + filepath.Join(fdtest.SocketDir(t), "s"), "a=unix://@fdbroker-test-close"} {
		sock := open(t, text)
		if got := sock.Spec(); !got.Equal(parse(t, text)) {
			t.Errorf("Spec: got %v", got)
		}
		for range 2 {
			if err := sock.Close(); err != nil {
				t.Error(err)
			}
		}
		if _, err := sock.Figures(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Figures after Close: got %v", err)
		}
		if _, err := sock.Blocking(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Blocking after Close: got %v", err)
		}
		if err := sock.SetBlocking(true); !errors.Is(err, os.ErrClosed) {
			t.Errorf("SetBlocking after Close: got %v", err)
		}
	}
}
