package socket_test

import (
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// renewed returns a socket of the text next, which has PORT in place of a number, in the place of old, which is retired.
func renewed(t *testing.T, old *socket.Socket, next string) *socket.Socket {
	t.Helper()
	_, port, _ := net.SplitHostPort(old.Address())
	sock, err := socket.Open(parse(t, strings.Replace(next, "PORT", port, 1)), socket.OpenConfig{Replacing: []*socket.Socket{old}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sock.Close() })
	if err := old.Retire(sock); err != nil {
		t.Fatal(err)
	}
	sock.Commit()
	if !sock.EndSharing(false) && os.Geteuid() == 0 {
		t.Error("the port can still be shared")
	}
	return sock
}

// TestRetire: clients reach the new socket, whatever the two addresses are, and what waits at the old one can be
// accepted there and answered. A listener that a worker shuts down listens again beside the old one.
func TestRetire(t *testing.T) {
	for _, c := range [][2]string{
		{"a=127.0.0.1:0", "a=:PORT"}, {"a=:0", "a=127.0.0.1:PORT"}, {"a=127.0.0.1:0", "a=0.0.0.0:PORT"}, {"a=0.0.0.0:0", "a=:PORT"},
		{"a=:0", "a=0.0.0.0:PORT"}, {"a=127.0.0.1:0", "a=127.0.0.1:PORT"}, {"a=:0", "a=:PORT"},
	} {
		t.Run(c[0]+" "+c[1], func(t *testing.T) {
			fdtest.CheckLeaks(t)
			old := open(t, c[0])
			_, port, _ := net.SplitHostPort(old.Address())
			queued := dial(t, "tcp", "127.0.0.1:"+port)
			sock := renewed(t, old, c[1])
			dial(t, "tcp", "127.0.0.1:"+port)
			for s, want := range map[*socket.Socket]uint32{old: 1, sock: 1} {
				if f, err := s.Figures(); err != nil || f.Queue != want {
					t.Errorf("%s: %+v, %v", s.Spec(), f, err)
				}
			}
			control(t, old, func(fd int) {
				n, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
				if err != nil {
					t.Fatal(err)
				}
				defer unix.Close(n)
				if _, err := unix.Write(n, []byte("x")); err != nil {
					t.Error(err)
				}
			})
			_ = queued.SetReadDeadline(time.Now().Add(10 * time.Second))
			if n, err := queued.Read(make([]byte, 1)); n != 1 {
				t.Error(err)
			}
			if undone, err := old.Repair(); undone != nil || err != nil {
				t.Errorf("the old one was repaired: %q, %v", undone, err)
			}
			if os.Geteuid() != 0 {
				return // listening again needs privileges
			}
			do(t, sock, shutdown(unix.SHUT_RDWR))
			if undone, err := sock.Repair(); len(undone) != 1 || err != nil {
				t.Errorf("got %q, %v", undone, err)
			}
			dial(t, "tcp", "127.0.0.1:"+port)
		})
	}
}

// TestRetireUDP: packets reach the new socket, and packets that wait at the old one can be answered from there.
func TestRetireUDP(t *testing.T) {
	for _, c := range [][2]string{
		{"a=udp://127.0.0.1:0", "a=udp://:PORT"}, {"a=udp://:0", "a=udp://127.0.0.1:PORT"}, {"a=udp://127.0.0.1:0", "a=udp://0.0.0.0:PORT"},
		{"a=udp://:0", "a=udp://0.0.0.0:PORT"}, {"a=udp://127.0.0.1:0", "a=udp://127.0.0.1:PORT"}, {"a=udp://[::1]:0", "a=udp://:PORT"},
	} {
		t.Run(c[0]+" "+c[1], func(t *testing.T) {
			fdtest.CheckLeaks(t)
			old := open(t, c[0])
			host, port, _ := net.SplitHostPort(old.Address())
			if host == "::" {
				host = "127.0.0.1"
			}
			client := dial(t, "udp", net.JoinHostPort(host, port))
			send := func() {
				if _, err := client.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
			}
			send()
			sock := renewed(t, old, c[1])
			send()
			for _, s := range []*socket.Socket{old, sock} {
				control(t, s, func(fd int) {
					_, from, err := unix.Recvfrom(fd, make([]byte, 1), 0)
					if err != nil {
						t.Fatalf("%s: %v", s.Spec(), err)
					}
					if err := unix.Sendto(fd, []byte("y"), 0, from); err != nil {
						t.Errorf("%s: %v", s.Spec(), err)
					}
				})
				_ = client.SetReadDeadline(time.Now().Add(10 * time.Second))
				if n, err := client.Read(make([]byte, 1)); n != 1 {
					t.Errorf("%s: %v", s.Spec(), err)
				}
			}
		})
	}
}

// TestRetiredIsInTheWay: the error names the old socket that a worker has kept over the loss of the broker, and not the
// one that is about to be replaced.
func TestRetiredIsInTheWay(t *testing.T) {
	fdtest.CheckLeaks(t)
	old := open(t, "a=:0")
	sock := renewed(t, old, "a=127.0.0.1:PORT")
	_, port, _ := net.SplitHostPort(old.Address())
	for text, replacing := range map[string][]*socket.Socket{"a=:" + port: {sock}, "b=127.0.0.2:" + port: nil} {
		next, err := socket.Open(parse(t, text), socket.OpenConfig{Replacing: replacing})
		if err == nil {
			next.Abort()
			t.Fatalf("%s was bound beside the old one", text)
		}
		if want := "it is the old socket of an earlier broker: stop who has it"; !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: got %q, want it to end with %q", text, err, want)
		}
	}
}

// TestRetireUnix: the old socket's path is gone, or leads to the new one.
func TestRetireUnix(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := fdtest.SocketDir(t)
	old := open(t, "a=unix://"+dir+"/s")
	dial(t, "unix", dir+"/s")
	next := renewed(t, old, "a=unix://"+dir+"/t")
	if files, _ := os.ReadDir(dir); len(files) != 2 || files[1].Name() != "t" {
		t.Errorf("there are files: %v", files)
	}
	last := renewed(t, next, "a=unix://"+dir+"/t")
	dial(t, "unix", dir+"/t")
	for s, want := range map[*socket.Socket]uint32{old: 1, next: 0, last: 1} {
		if f, err := s.Figures(); err != nil || f.Queue != want {
			t.Errorf("%s: %+v, %v", s.Address(), f, err)
		}
		if s != last {
			_ = s.Close()
		}
	}
	dial(t, "unix", dir+"/t")
}
