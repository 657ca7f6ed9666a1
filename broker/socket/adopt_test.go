package socket_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// passed opens the socket of a spec, and returns a duplicate of it, as a service manager passes one, and the address.
// The test's end closes the manager's own.
func passed(t *testing.T, spec string) (*scmrights.FD, *socket.Socket) {
	t.Helper()
	sock := open(t, spec)
	fd, err := sock.FD().Dup()
	if err != nil {
		t.Fatal(err)
	}
	return fd, sock
}

// describe describes a socket that a service manager has passed.
var describe = socket.Donation{Name: "web", Options: "blocking=no"}

// rawFD returns a descriptor of a new socket, set up by use.
func rawFD(t *testing.T, family, sotype, protocol int, use func(fd int) error) *scmrights.FD {
	t.Helper()
	n, err := unix.Socket(family, sotype|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		t.Skipf("no such sockets here: %v", err)
	}
	fd := scmrights.NewFD(n)
	t.Cleanup(func() { _ = fd.Close() })
	if use != nil {
		if err := use(n); err != nil {
			t.Fatal(err)
		}
	}
	return fd
}

// TestAdopt: a socket of each network can be described, and adopted by its description. It stays the same socket, and
// its path stays when it is closed.
func TestAdopt(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := fdtest.SocketDir(t)
	for _, c := range []struct{ opened, described string }{
		{"a=127.0.0.1:0", "web=ADDRESS"},
		{"a=127.0.0.1:0,backlog=7", "web=ADDRESS,backlog=7"},
		{"a=tcp4://127.0.0.1:0", "web=ADDRESS"},
		{"a=[::1]:0", "web=ADDRESS"},
		{"a=tcp6://[::1]:0", "web=ADDRESS"},
		{"a=tcp6://:0", "web=tcp6://ADDRESS"},
		{"a=:0", "web=ADDRESS"},
		{"a=udp://127.0.0.1:0", "web=udp://ADDRESS"},
		{"a=unix://" + dir + "/s,backlog=3,mode=0751", "web=unix://ADDRESS,backlog=3,mode=0751"},
		{"a=unix://@fdbroker-adopt", "web=unix://ADDRESS"},
		{"a=unixpacket://" + dir + "/p,mode=0700", "web=unixpacket://ADDRESS,mode=0700"},
		{"a=unixgram://" + dir + "/g,mode=0622", "web=unixgram://ADDRESS,mode=0622"},
	} {
		t.Run(c.opened, func(t *testing.T) {
			fd, orig := passed(t, c.opened)
			spec, err := describe.Spec(fd)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := spec.String(), strings.Replace(c.described, "ADDRESS", orig.Address(), 1); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			sock, err := socket.Adopt(spec, fd, socket.Foreign)
			if err != nil {
				t.Fatal(err)
			}
			if sock.Cookie() != orig.Cookie() || sock.Address() != orig.Address() || sock.Backlog() != orig.Backlog() || !sock.Adopted() {
				t.Errorf("got %d %s %d, want %d %s %d", sock.Cookie(), sock.Address(), sock.Backlog(), orig.Cookie(), orig.Address(), orig.Backlog())
			}
			if err := sock.Close(); err != nil {
				t.Error(err)
			}
			if addr := orig.Address(); addr[0] == '/' {
				if _, err := os.Lstat(addr); err != nil {
					t.Errorf("the path that the manager made is gone: %v", err)
				}
			}
		})
	}
}

// TestAdoptMPTCP adopts such a socket as Go's net.Listen opens by default.
func TestAdoptMPTCP(t *testing.T) {
	fdtest.CheckLeaks(t)
	ln, fd := mptcp(t)
	defer ln.Close()
	text := "web=:80,backlog=3,nodelay,keepalive,defer-accept=1s"
	_ = fd.Control(func(n uintptr) {
		if unix.SetsockoptInt(int(n), unix.IPPROTO_TCP, unix.TCP_FASTOPEN, 1) != unix.ENOPROTOOPT { // until Linux 6.2
			text += ",fastopen=2"
		}
	})
	sock, err := socket.Adopt(parse(t, text), fd, socket.Foreign)
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	if figures, err := sock.Figures(); err != nil || figures.Limit != 3 || sock.Address() != ln.Addr().String() {
		t.Errorf("%s: %+v, %v", sock.Address(), figures, err)
	}
}

// TestRecoverMPTCP: a socket that a server has opened with MPTCP, as Go's do, is taken back from the server as any other.
func TestRecoverMPTCP(t *testing.T) {
	fdtest.CheckLeaks(t)
	ln, fd := mptcp(t)
	defer ln.Close()
	s := parse(t, "web="+ln.Addr().String())
	adopted, err := socket.Adopt(s, fd, socket.Foreign)
	if err != nil {
		t.Fatal(err)
	}
	cookie := adopted.Cookie()
	if err := adopted.Close(); err != nil {
		t.Fatal(err)
	}
	got := socket.Recover([]spec.Spec{s})[0]
	if got.Socket == nil {
		t.Fatalf("not taken back: %s", got.Why)
	}
	defer got.Socket.Close()
	if got.Socket.Cookie() != cookie || len(got.Holders) != 1 || got.Holders[0].PID != os.Getpid() {
		t.Errorf("got %d, %+v, want %d", got.Socket.Cookie(), got.Holders, cookie)
	}
}

// mptcp returns a listener that has MPTCP if the kernel has, and a duplicate of its socket; the caller must close both.
func mptcp(t *testing.T) (net.Listener, *scmrights.FD) {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(true)
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	rc, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var fd *scmrights.FD
	_ = rc.Control(func(n uintptr) {
		d, err := unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		fd = scmrights.NewFD(d)
	})
	_ = f.Close()
	return ln, fd
}

// TestAdoptOptions: the options of a spec are applied to a socket that was made without.
func TestAdoptOptions(t *testing.T) {
	fdtest.CheckLeaks(t)
	fd, orig := passed(t, "a=127.0.0.1:0,backlog=5,blocking")
	// Another address than the socket's: the manager decides.
	sock, err := socket.Adopt(parse(t, "web=:80,backlog=9,nodelay,keepalive,defer-accept=5s,freebind"), fd, socket.Foreign)
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	if sock.Address() != orig.Address() || sock.Backlog() != 9 {
		t.Errorf("got %s and %d", sock.Address(), sock.Backlog())
	}
	if f, err := sock.Figures(); err != nil || f.Limit != 9 {
		t.Errorf("the kernel's backlog: %+v, %v", f, err)
	}
	if blocking, err := sock.Blocking(); blocking || err != nil {
		t.Errorf("blocking: %v, %v", blocking, err)
	}
	for name, got := range map[string]int{
		"nodelay":      sockopt(t, sock, unix.SOL_TCP, unix.TCP_NODELAY),
		"keepalive":    sockopt(t, sock, unix.SOL_SOCKET, unix.SO_KEEPALIVE),
		"defer-accept": sockopt(t, sock, unix.SOL_TCP, unix.TCP_DEFER_ACCEPT),
		"freebind":     sockopt(t, sock, unix.SOL_IP, unix.IP_FREEBIND),
	} {
		if got == 0 {
			t.Errorf("%s is off", name)
		}
	}

	path := fdtest.SocketDir(t) + "/s"
	fd, _ = passed(t, "a=unix://"+path)
	sock, err = socket.Adopt(parse(t, "app=unix:///other,mode=0601"), fd, socket.Foreign)
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o601 {
		t.Errorf("mode: %v, %v", st.Mode(), err)
	}
}

func TestAdoptRefuses(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := fdtest.SocketDir(t)
	bind4 := func(fd int) error { return unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}) }
	of := func(spec string) *scmrights.FD { fd, _ := passed(t, spec); return fd }
	for _, c := range []struct {
		name string
		fd   *scmrights.FD
		spec string
		want string
	}{
		{"udp for tcp", of("a=udp://127.0.0.1:0"), "web=127.0.0.1:80", "cannot bind web=127.0.0.1:80: the socket that was passed is udp://127.0.0.1:PORT, and the spec's network is tcp"},
		{"IPv6 for tcp4", of("a=[::1]:0"), "web=tcp4://127.0.0.1:80", "the socket that was passed is tcp://[::1]:PORT, and the spec's network is tcp4"},
		{"unix for tcp", of("a=unix://" + dir + "/a"), "web=:80", "the socket that was passed is unix://" + dir + "/a, and the spec's network is tcp"},
		{"stream for packets", of("a=unix://" + dir + "/b"), "web=unixgram:///b", "and the spec's network is unixgram"},
		{"IPv4 too", of("a=:0"), "web=:80,v6only", "takes IPv4 as well"},
		{"no listener", rawFD(t, unix.AF_INET, unix.SOCK_STREAM, 0, bind4), "web=:80", "the socket tcp://127.0.0.1:PORT that was passed does not listen"},
		{"unbound", rawFD(t, unix.AF_INET, unix.SOCK_DGRAM, 0, nil), "web=udp://:80", "the socket that was passed has no address"},
		{"netlink", rawFD(t, unix.AF_NETLINK, unix.SOCK_RAW, 0, nil), "web=:80", "a socket of family 16, type 3 and protocol 0 was passed"},
		{"no file for mode", of("a=unix://@fdbroker-refuses"), "web=unix:///a,mode=0600", "has no file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dup, err := c.fd.Dup()
			if err != nil {
				t.Fatal(err)
			}
			defer c.fd.Close()
			_, port, _ := net.SplitHostPort(boundAddr(dup))
			_, err = socket.Adopt(parse(t, c.spec), dup, socket.Foreign)
			be, ok := errors.AsType[*socket.BindError](err)
			if want := strings.ReplaceAll(c.want, "PORT", port); !ok || !strings.Contains(be.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
			if err := dup.Control(func(uintptr) {}); err == nil {
				t.Error("the descriptor is still open")
			}
		})
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	rc, _ := r.SyscallConn()
	_ = rc.Control(func(n uintptr) {
		d, err := unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		fd := scmrights.NewFD(d)
		defer fd.Close()
		if _, err := describe.Spec(fd); err == nil || err.Error() != "the descriptor that was passed is not a socket" {
			t.Errorf("a pipe: got %v", err)
		}
	})
}

func boundAddr(fd *scmrights.FD) (addr string) {
	_ = fd.Control(func(n uintptr) {
		switch sa, _ := unix.Getsockname(int(n)); sa := sa.(type) {
		case *unix.SockaddrInet4:
			addr = (&net.TCPAddr{IP: sa.Addr[:], Port: sa.Port}).String()
		case *unix.SockaddrInet6:
			addr = (&net.TCPAddr{IP: sa.Addr[:], Port: sa.Port}).String()
		}
	})
	return addr
}

// TestBecome: options that a socket takes at any time are set, and cleared again, without disturbing what waits.
func TestBecome(t *testing.T) {
	fdtest.CheckLeaks(t)
	sock := open(t, "web=127.0.0.1:0")
	c, err := net.Dial("tcp", sock.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cookie := sock.Cookie()
	is := func() []int {
		return []int{
			sockopt(t, sock, unix.SOL_TCP, unix.TCP_NODELAY), sockopt(t, sock, unix.SOL_SOCKET, unix.SO_KEEPALIVE), sock.Backlog(),
		}
	}
	plain := is()
	for _, text := range []string{"web=127.0.0.1:0,backlog=6,nodelay,keepalive,max=2,allow=uid:5,blocking", "web=127.0.0.1:0"} {
		to := parse(t, text)
		if !sock.CanBecome(to) {
			t.Fatalf("cannot become %s", to)
		}
		if err := sock.Become(to); err != nil {
			t.Fatal(err)
		}
		if got := sock.Spec(); !got.Equal(to) {
			t.Errorf("got %s, want %s", got, to)
		}
		f, err := sock.Figures()
		if err != nil || f.Queue != 1 || int(f.Limit) != sock.Backlog() || sock.Cookie() != cookie {
			t.Errorf("%s: %+v, %v", to, f, err)
		}
		if got, want := is(), []int{1, 1, 6}; len(text) > 20 && (got[0] != 1 || got[1] != 1 || got[2] != 6) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	if got := is(); got[0] != plain[0] || got[1] != plain[1] || got[2] != plain[2] {
		t.Errorf("got %v, want %v", got, plain)
	}
	_, port, _ := net.SplitHostPort(sock.Address())
	for text, want := range map[string]bool{
		"adm=127.0.0.1:0": false, "web=127.0.0.1:1": false, "web=127.0.0.2:PORT": false, "web=:PORT": false,
		"web=udp://127.0.0.1:PORT": false, "web=unix:///x": false, "web=no-such-host.invalid:PORT": false,
		"web=127.0.0.1:PORT": true, "web=tcp4://127.0.0.1:0": true, "web=localhost:PORT": true, "web=127.0.0.1:PORT,freebind,device=lo": true,
	} {
		if got := sock.CanBecome(parse(t, strings.Replace(text, "PORT", port, 1))); got != want {
			t.Errorf("can become %s: got %v", text, got)
		}
	}
}

// TestBecomeAnyOption: every option changes on the living socket, and cleared it is as the kernel has it by default.
func TestBecomeAnyOption(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("device, mark and transparent need privileges")
	}
	fdtest.CheckLeaks(t)
	dir := fdtest.SocketDir(t)
	state := func(sock *socket.Socket) string {
		if path := sock.Address(); path[0] == '/' {
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err != nil {
				t.Fatal(err)
			}
			return fmt.Sprint(st.Mode, st.Uid, st.Gid, sock.Backlog())
		}
		var text strings.Builder
		text.WriteString(fmt.Sprint(sock.Backlog()))
		for _, o := range [][2]int{
			{unix.SOL_IP, unix.IP_FREEBIND}, {unix.SOL_IP, unix.IP_TRANSPARENT}, {unix.SOL_IPV6, unix.IPV6_FREEBIND}, {unix.SOL_IPV6, unix.IPV6_TRANSPARENT},
			{unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX}, {unix.SOL_SOCKET, unix.SO_MARK}, {unix.SOL_SOCKET, unix.SO_KEEPALIVE},
		} {
			control(t, sock, func(fd int) {
				n, err := unix.GetsockoptInt(fd, o[0], o[1])
				text.WriteString(fmt.Sprint(" ", n, err))
			})
		}
		return text.String()
	}
	for _, address := range []string{"127.0.0.1:0", "[::1]:0", ":0", "udp://127.0.0.1:0", "udp6://[::1]:0", "unix://" + dir + "/s"} {
		sock := open(t, "web="+address)
		plain, cookie := state(sock), sock.Cookie()
		options := []string{"freebind", "transparent", "device=lo", "mark=7", "device=lo,freebind,mark=1"}
		if strings.HasPrefix(address, "unix") {
			options = []string{"mode=0640", "user=1", "group=2", "mode=0600,user=3,group=4"}
		}
		for i, option := range options {
			text := "web=" + address + "," + option
			fresh := state(open(t, strings.Replace(text, dir+"/s", fmt.Sprint(dir, "/", i), 1)))
			for _, text := range []string{text, "web=" + address} {
				to := parse(t, text)
				if !sock.CanBecome(to) {
					t.Fatalf("cannot become %s", to)
				}
				if err := sock.Become(to); err != nil {
					t.Fatal(err)
				}
				want := plain
				if strings.HasSuffix(text, option) {
					want = fresh
				}
				if got := state(sock); got != want || sock.Cookie() != cookie {
					t.Errorf("%s: got %s, want %s", text, got, want)
				}
			}
		}
	}
}

// TestBecomeNotLocal: freebind stays as long as the address needs it, because the next start would fail.
func TestBecomeNotLocal(t *testing.T) {
	fdtest.CheckLeaks(t)
	sock := open(t, "web=192.0.2.1:0,freebind")
	if err := sock.Become(parse(t, "web=192.0.2.1:0")); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("got %v, want EADDRNOTAVAIL", err)
	}
	if !sock.Spec().Options.FreeBind || sockopt(t, sock, unix.SOL_IP, unix.IP_FREEBIND) != 1 {
		t.Error("freebind is gone")
	}
}

// TestReplace: a socket is opened at the address of another one, which goes on until it is closed. Abort leaves no
// trace.
func TestReplace(t *testing.T) {
	dir := fdtest.SocketDir(t)
	for _, c := range []struct{ old, next string }{
		{"a=127.0.0.1:0", "b=127.0.0.1:PORT"},
		{"a=[::1]:0", "b=[::1]:PORT"},
		{"a=:0", "b=127.0.0.1:PORT"},
		{"a=127.0.0.1:0", "b=:PORT"},
		{"a=udp://127.0.0.1:0", "b=udp://127.0.0.1:PORT"},
		{"a=unix://" + dir + "/s", "b=unix://" + dir + "/s,mode=0600"},
		{"a=unixgram://" + dir + "/g", "b=unix://" + dir + "/g"},
	} {
		for _, keep := range []bool{true, false} {
			t.Run(c.old+" "+map[bool]string{true: "committed", false: "aborted"}[keep], func(t *testing.T) {
				fdtest.CheckLeaks(t)
				old := open(t, c.old)
				_, port, _ := net.SplitHostPort(old.Address())
				spec := parse(t, strings.Replace(c.next, "PORT", port, 1))
				if _, err := socket.Open(spec, socket.OpenConfig{}); !errors.Is(err, syscall.EADDRINUSE) {
					t.Fatalf("Open: got %v, want EADDRINUSE", err)
				}
				sock, err := socket.Open(spec, socket.OpenConfig{Replacing: []*socket.Socket{old}})
				if err != nil {
					t.Fatal(err)
				}
				defer sock.Close()
				left := old
				if !keep {
					sock.Abort()
				} else {
					sock.Commit()
					if err := old.Close(); err != nil {
						t.Error(err)
					}
					left = sock
				}
				if sockopt(t, left, unix.SOL_SOCKET, unix.SO_REUSEPORT) != 0 {
					t.Error("it keeps SO_REUSEPORT")
				}
				reach(t, left)
				if left.Address()[0] != '/' {
					return
				}
				if undone, err := left.Repair(); undone != nil || err != nil {
					t.Errorf("Repair: %q, %v", undone, err)
				}
				base := filepath.Base(left.Address())
				if got := names(t, dir); got != "."+base+".fdbroker "+base {
					t.Errorf("there are files: %s", got)
				}
			})
		}
	}
}

// reach connects to a socket, and sees that it comes there.
func reach(t *testing.T, s *socket.Socket) {
	t.Helper()
	c, err := net.Dial(s.Network(), s.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if s.Packet() {
		_, _ = c.Write([]byte("x"))
	}
	fdtest.Eventually(t, "the socket has it", func() bool {
		f, err := s.Figures()
		return err == nil && f.Queue > 0
	})
}
