package socket_test

import (
	"errors"
	"net"
	"path/filepath"
	"testing"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/broker/socket/sockdiag"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

func figures(t testing.TB, sock *socket.Socket) sockdiag.Figures {
	t.Helper()
	f, err := sock.Figures()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFiguresOfConnections(t *testing.T) {
	dir := fdtest.SocketDir(t)
	for _, test := range []struct{ network, spec string }{
		{"tcp", "a=127.0.0.1:0,backlog=5"},
		{"unix", "a=unix://" + filepath.Join(dir, "s") + ",backlog=5"},
		{"unixpacket", "a=unixpacket://" + filepath.Join(dir, "p") + ",backlog=5"},
		{"unix", "a=unix://@fdbroker-test-figures,backlog=5"},
	} {
		t.Run(test.spec, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			sock := open(t, test.spec)
			want := sockdiag.Figures{Limit: 5, DropsKnown: test.network == "tcp"}
			if got := figures(t, sock); got != want || sock.Backlog() != 5 {
				t.Errorf("got %+v, backlog %d, want %+v", got, sock.Backlog(), want)
			}
			for range 3 {
				dial(t, test.network, sock.Address())
			}
			want.Queue = 3
			fdtest.Eventually(t, "three wait", func() bool { return figures(t, sock) == want })
			c, err := listener(t, sock).Accept()
			if err != nil {
				t.Fatal(err)
			}
			_ = c.Close()
			want.Queue = 2
			fdtest.Eventually(t, "two wait", func() bool { return figures(t, sock) == want })
		})
	}
}

// TestFiguresOfMany: those of many sockets at a time are the same.
func TestFiguresOfMany(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := fdtest.SocketDir(t)
	var all []*socket.Socket
	for i, text := range []string{
		"unix://" + filepath.Join(dir, "s"), "127.0.0.1:0", "unix://@fdbroker-test-many,backlog=5", "udp://127.0.0.1:0",
		"unixpacket://" + filepath.Join(dir, "p") + ",backlog=7", "unixgram://" + filepath.Join(dir, "g"),
	} {
		sock := open(t, "a="+text)
		for range i {
			dial(t, sock.Network(), sock.Address())
		}
		all = append(all, sock)
	}
	fdtest.Eventually(t, "one waits", func() bool { return figures(t, all[1]).Queue == 1 })
	for _, some := range [][]*socket.Socket{all, all[:2], nil} {
		got, errs := socket.FiguresOf(some)
		for i, sock := range some {
			if want := figures(t, sock); errs[i] != nil || got[i] != want {
				t.Errorf("%s: got %+v, %v, want %+v", sock.Network(), got[i], errs[i], want)
			}
		}
	}
	if got, _ := socket.FiguresOf(all); got[2].Queue != 2 || got[4].Queue != 4 || got[4].Limit != 7 {
		t.Errorf("got %+v", got)
	}
	closed := open(t, "a=unix://"+filepath.Join(dir, "c"))
	_ = closed.Close()
	if _, errs := socket.FiguresOf([]*socket.Socket{all[0], closed, all[2]}); errs[0] != nil || errs[1] == nil || errs[2] != nil {
		t.Errorf("got %v", errs)
	}
}

// TestFiguresCountDrops lets one more connect than there is room for: backlog 1 is room for two (docs/kernel.md, Queue
// and drops).
func TestFiguresCountDrops(t *testing.T) {
	fdtest.CheckLeaks(t)
	sock := open(t, "a=127.0.0.1:0,backlog=1")
	for range 2 {
		dial(t, "tcp", sock.Address())
	}
	fdtest.Eventually(t, "two wait", func() bool { return figures(t, sock).Queue == 2 })
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	addr, err := net.ResolveTCPAddr("tcp", sock.Address())
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: addr.Port, Addr: [4]byte{127, 0, 0, 1}}); !errors.Is(err, unix.EINPROGRESS) {
		t.Fatal(err)
	}
	fdtest.Eventually(t, "a drop is counted", func() bool { return figures(t, sock).Drops > 0 })
	if got := figures(t, sock); got.Queue != 2 || got.Limit != 1 || !got.DropsKnown {
		t.Errorf("got %+v", got)
	}
}

func TestFiguresOfDeadListener(t *testing.T) {
	fdtest.CheckLeaks(t)
	sock := open(t, "a=127.0.0.1:0")
	control(t, sock, func(fd int) { _ = unix.Shutdown(fd, unix.SHUT_RDWR) })
	if got := figures(t, sock); got.Queue != 0 || got.Limit != 0 {
		t.Errorf("got %+v", got)
	}
}

func TestFiguresOfUDP(t *testing.T) {
	fdtest.CheckLeaks(t)
	sock := open(t, "a=udp://127.0.0.1:0")
	control(t, sock, func(fd int) {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096); err != nil {
			t.Fatal(err)
		}
	})
	empty := figures(t, sock)
	if empty.Queue != 0 || empty.Limit != 8192 || empty.Drops != 0 || !empty.DropsKnown || !empty.Bytes || sock.Backlog() != 0 {
		t.Errorf("got %+v", empty)
	}
	c := dial(t, "udp", sock.Address())
	for range 20 {
		if _, err := c.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	fdtest.Eventually(t, "bytes wait and some were dropped", func() bool {
		f := figures(t, sock)
		return f.Queue >= 1000 && f.Drops > 0 && f.Drops < 20
	})
}

func TestFiguresOfUnixgram(t *testing.T) {
	fdtest.CheckLeaks(t)
	sock := open(t, "a=unixgram://"+filepath.Join(fdtest.SocketDir(t), "g"))
	if got, want := figures(t, sock), (sockdiag.Figures{Bytes: true}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	c := dial(t, "unixgram", sock.Address())
	for _, size := range []int{30, 40} {
		if _, err := c.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := figures(t, sock), (sockdiag.Figures{Queue: 30, Bytes: true}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestBacklogIsCapped: Backlog returns the backlog that the kernel has.
func TestBacklogIsCapped(t *testing.T) {
	fdtest.CheckLeaks(t)
	for _, text := range []string{"a=127.0.0.1:0", "a=127.0.0.1:0,backlog=2147483647", "a=unix://@fdbroker-test-backlog,backlog=2147483647"} {
		sock := open(t, text)
		if got := figures(t, sock); int(got.Limit) != sock.Backlog() || got.Limit == 0 || got.Limit == 1<<31-1 {
			t.Errorf("%s: Limit %d, Backlog %d", text, got.Limit, sock.Backlog())
		}
	}
}
