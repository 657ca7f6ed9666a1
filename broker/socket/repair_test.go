package socket_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// repaired repairs sock and checks what was undone, in order, each by how it begins.
func repaired(t *testing.T, sock *socket.Socket, want ...string) {
	t.Helper()
	undone, err := sock.Repair()
	if err != nil {
		t.Errorf("Repair: %v", err)
	}
	checkUndone(t, undone, want)
}

func checkUndone(t *testing.T, undone, want []string) {
	t.Helper()
	same := slices.EqualFunc(undone, want, strings.HasPrefix)
	if !same {
		t.Errorf("undone: %q, want %q", undone, want)
	}
}

// do calls f with the number of a descriptor that a worker could have.
func do(t *testing.T, sock *socket.Socket, f func(fd int) error) {
	t.Helper()
	var err error
	if cerr := sock.FD().Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
}

func shutdown(how int) func(int) error {
	return func(fd int) error {
		if err := unix.Shutdown(fd, how); err != nil && err != unix.ENOTCONN {
			return err
		}
		return nil
	}
}

func setOption(option, value int) func(int) error {
	return func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, value) }
}

func TestRepairTCP(t *testing.T) {
	for _, text := range []string{"a=:0", "a=127.0.0.1:0", "a=[::1]:0", "a=tcp6://:0", "a=127.0.0.1:0,backlog=7"} {
		t.Run(text, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			sock := open(t, text)
			cookie, address := sock.Cookie(), sock.Address()
			repaired(t, sock)
			serves(t, sock) // an accepted connection is in the way without SO_REUSEADDR
			for _, c := range []struct {
				do   func(int) error
				want []string
			}{
				{shutdown(unix.SHUT_RD), []string{"shut down"}},
				{shutdown(unix.SHUT_RDWR), []string{"shut down"}},
				{func(fd int) error { return unix.Listen(fd, 3) }, []string{"backlog 3 instead of "}},
				{setOption(unix.SO_REUSEPORT, 1), []string{"SO_REUSEPORT set"}},
				{setOption(unix.SO_REUSEADDR, 0), []string{"SO_REUSEADDR cleared"}},
				{func(fd int) error {
					return errors.Join(setOption(unix.SO_REUSEADDR, 0)(fd), shutdown(unix.SHUT_RDWR)(fd))
				}, []string{"SO_REUSEADDR cleared", "shut down"}},
			} {
				do(t, sock, c.do)
				repaired(t, sock, c.want...)
				repaired(t, sock)
				f, err := sock.Figures()
				if err != nil || int(f.Limit) != sock.Backlog() {
					t.Errorf("limit %d of %d, %v", f.Limit, sock.Backlog(), err)
				}
				if sock.Cookie() != cookie || sock.Address() != address {
					t.Errorf("it is %d at %s, was %d at %s", sock.Cookie(), sock.Address(), cookie, address)
				}
				serves(t, sock)
			}
		})
	}
}

// TestRepairConnectedAway: a worker may even connect what it has shut down.
func TestRepairConnectedAway(t *testing.T) {
	fdtest.CheckLeaks(t)
	peer, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	sock := open(t, "a=127.0.0.1:0,blocking")
	do(t, sock, shutdown(unix.SHUT_RDWR))
	do(t, sock, func(fd int) error {
		return unix.Connect(fd, &unix.SockaddrInet4{Port: peer.Addr().(*net.TCPAddr).Port, Addr: [4]byte{127, 0, 0, 1}})
	})
	repaired(t, sock, "shut down")
	serves(t, sock)
}

// TestRepairPortZero: a socket that another process has bound to port 0 loses its port when it is shut down, and gets
// it back.
func TestRepairPortZero(t *testing.T) {
	fdtest.CheckLeaks(t)
	for _, text := range []string{"tcp", "udp"} {
		n, err := unix.Socket(unix.AF_INET, map[string]int{"tcp": unix.SOCK_STREAM, "udp": unix.SOCK_DGRAM}[text]|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		fd := scmrights.NewFD(n)
		if err := unix.Bind(n, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			t.Fatal(err)
		}
		if text == "tcp" {
			if err := unix.Listen(n, 9); err != nil {
				t.Fatal(err)
			}
		}
		sock, err := put(socket.Donation{Name: "a"}, fd)
		if err != nil {
			t.Fatal(err)
		}
		want := "shut down"
		if text == "udp" {
			want = "connected"
			do(t, sock, connectSelf)
		} else {
			do(t, sock, shutdown(unix.SHUT_RD))
		}
		repaired(t, sock, want)
		serves(t, sock)
		if err := sock.Close(); err != nil {
			t.Error(err)
		}
	}
}

// connectSelf connects a datagram socket to a peer that there is: itself.
func connectSelf(fd int) error {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	return unix.Connect(fd, sa)
}

// TestRepairStolenPort: while another process has the port Repair fails, and afterwards it succeeds.
func TestRepairStolenPort(t *testing.T) {
	fdtest.CheckLeaks(t)
	sock := open(t, "a=127.0.0.1:0")
	do(t, sock, shutdown(unix.SHUT_RD))
	_, thief, end := hold(t, "thief="+sock.Address())
	for range 2 {
		undone, err := sock.Repair()
		if len(undone) > 0 || !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("beside %s: undone %q, %v", thief, undone, err)
		}
	}
	if who := sock.WhoHas(); !strings.Contains(who, helperCommand()) {
		t.Errorf("WhoHas: %s", who)
	}
	end()
	repaired(t, sock, "shut down")
	serves(t, sock)
}

func TestRepairPackets(t *testing.T) {
	dir := fdtest.SocketDir(t)
	for _, text := range []string{"a=udp://127.0.0.1:0", "a=udp://[::1]:0", "a=udp://:0", "a=unixgram://" + dir + "/g", "a=unixgram://@fdbroker-test-heal-g"} {
		t.Run(text, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			sock := open(t, text)
			repaired(t, sock)
			do(t, sock, connectSelf)
			repaired(t, sock, "connected to one peer")
			repaired(t, sock)
			if strings.Contains(text, "udp") {
				do(t, sock, setOption(unix.SO_REUSEADDR, 1))
				repaired(t, sock, "SO_REUSEADDR set")
			}
			serves(t, sock)
		})
	}
}

// TestBeyondRepair: the kernel never undoes some shutdowns. The error says what to do.
func TestBeyondRepair(t *testing.T) {
	dir := fdtest.SocketDir(t)
	const (
		reload = "fdclient reload --rebind; if it is not of the configuration: "
		stop   = "stop its workers, fdclient unbind a, then bind it again"
		begin  = reload + "fdclient unbind a, bind it again, and start its workers again"
	)
	for text, advice := range map[string]string{
		"a=udp://127.0.0.1:0": reload + stop, "a=udp://:0": reload + stop, "a=unix://@fdbroker-test-heal-s": stop, "a=unixgram://@fdbroker-test-heal-g": stop,
		"a=unixgram://" + dir + "/g": begin, "a=unix://" + dir + "/s": begin, "a=unixpacket://" + dir + "/p,backlog=3,mode=0600": begin,
	} {
		t.Run(text, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			sock := open(t, text)
			do(t, sock, shutdown(unix.SHUT_RDWR))
			for range 2 {
				undone, err := sock.Repair()
				checkUndone(t, undone, nil)
				checkBeyondRepair(t, err, "the socket of a was shut down by a worker and cannot be repaired: "+advice)
			}
			if err := sock.Close(); err != nil {
				t.Error(err)
			}
			serves(t, open(t, text)) // the advice helps
		})
	}
}

func checkBeyondRepair(t *testing.T, err error, text string) {
	t.Helper()
	if !errors.Is(err, socket.ErrBeyondRepair) || err.Error() != text {
		t.Errorf("got %v, want %s", err, text)
	}
}

// TestRepairCapped: if net.core.somaxconn was lowered below the backlog, Repair says so once and keeps what the kernel
// gives.
func TestRepairCapped(t *testing.T) {
	dir := fdtest.SocketDir(t)
	for _, text := range []string{"a=127.0.0.1:0,backlog=1000", "a=unix://" + dir + "/s,backlog=1000"} {
		t.Run(text, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			inNetwork(t, func(somaxconn func(most string)) {
				somaxconn("4096")
				sock := open(t, text)
				somaxconn("128")
				repaired(t, sock)
				do(t, sock, func(fd int) error { return unix.Listen(fd, 5) })
				repaired(t, sock, "backlog 1000 was asked for, the kernel gives 128: net.core.somaxconn is 128")
				repaired(t, sock)
				do(t, sock, func(fd int) error { return unix.Listen(fd, 5) })
				repaired(t, sock, "backlog 5 instead of 128")
				if err := sock.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestRepairCappedElsewhere: the cap is that of the network namespace that the socket was made in.
func TestRepairCappedElsewhere(t *testing.T) {
	fdtest.CheckLeaks(t)
	var sock *socket.Socket
	inNetwork(t, func(somaxconn func(most string)) {
		somaxconn("4096")
		sock = open(t, "a=127.0.0.1:0,backlog=1000")
		somaxconn("128")
	})
	if sock == nil {
		return
	}
	control(t, sock, func(fd int) {
		if _, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err != nil {
			t.Skip("before Linux 5.14 a socket does not tell its network namespace: ", err)
		}
	})
	do(t, sock, func(fd int) error { return unix.Listen(fd, 5) })
	repaired(t, sock, "backlog 1000 was asked for, the kernel gives 128: net.core.somaxconn is 128")
	for range 5 {
		repaired(t, sock)
	}
	if err := sock.Close(); err != nil {
		t.Error(err)
	}
}

// TestRaise: backlogs follow net.core.somaxconn when it is raised, as far as their specs say.
func TestRaise(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := fdtest.SocketDir(t)
	inNetwork(t, func(somaxconn func(most string)) {
		somaxconn("128")
		var all []*socket.Socket
		for _, text := range []string{"a=127.0.0.1:0", "b=127.0.0.1:0,backlog=1000", "c=127.0.0.1:0,backlog=5", "d=unix://" + dir + "/d", "e=udp://127.0.0.1:0"} {
			all = append(all, open(t, text))
		}
		check := func(what string, raised int, want ...int) {
			t.Helper()
			if n := len(socket.Raise(all)); n != raised {
				t.Errorf("%s: %d are raised, want %d", what, n, raised)
			}
			for i, n := range want {
				if f, err := all[i].Figures(); err != nil || int(f.Limit) != n || all[i].Backlog() != n {
					t.Errorf("%s: %s has %d, %v, and should have %d", what, all[i].Name(), f.Limit, err, n)
				}
				repaired(t, all[i])
			}
		}
		check("as before", 0, 128, 128, 5, 128)
		somaxconn("2000")
		check("raised", 3, 2000, 1000, 5, 2000)
		check("again", 0, 2000, 1000, 5, 2000)
		somaxconn("64")
		check("lowered", 0, 2000, 1000, 5, 2000)
		for _, s := range all {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

// inNetwork calls f on a thread that has a network namespace of its own, with a function that sets net.core.somaxconn
// there. It skips the test if that is not allowed.
func inNetwork(t *testing.T, f func(somaxconn func(most string))) {
	t.Helper()
	var skip string
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good, so that the thread ends with this goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			skip = err.Error()
			return
		}
		if err := linkUp("lo"); err != nil {
			skip = err.Error()
			return
		}
		const name = "/proc/sys/net/core/somaxconn"
		if err := unix.Access(name, unix.W_OK); err != nil {
			skip = err.Error()
			return
		}
		f(func(most string) {
			if err := os.WriteFile(name, []byte(most), 0); err != nil {
				t.Error(err)
			}
		})
	}()
	<-done
	if skip != "" {
		t.Skip("no network namespace of its own: " + skip)
	}
}

// linkUp sets a network interface up.
func linkUp(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

func TestRepairPath(t *testing.T) {
	for network, sotype := range unixTypes {
		t.Run(network, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			path := filepath.Join(fdtest.SocketDir(t), "s")
			sock := open(t, "a="+network+"://"+path)
			spare := filepath.Join(filepath.Dir(path), ".s.fdbroker")
			for _, c := range []struct {
				do   func() error
				want []string
			}{
				{func() error { return os.Remove(path) }, []string{"path removed"}},
				{func() error { return os.Rename(path, path+".moved") }, []string{"path removed"}},
				{func() error { leaveStale(t, path, sotype); return nil }, []string{"path replaced"}},
				{func() error { return os.Remove(spare) }, nil},
				{func() error { leaveStale(t, spare, sotype); return nil }, nil},
				{func() error { return os.Remove(path) }, []string{"path removed"}}, // from the new backup link
			} {
				if err := c.do(); err != nil {
					t.Fatal(err)
				}
				repaired(t, sock, c.want...)
				serves(t, sock)
				_ = os.Remove(path + ".moved")
			}
			if err := sock.Close(); err != nil {
				t.Error(err)
			}
			if got := names(t, filepath.Dir(path)); got != "" {
				t.Errorf("left behind: %s", got)
			}
		})
	}
}

// TestRepairPathElsewhere: a file of another process is left alone. Without a second link the path cannot come back.
func TestRepairPathElsewhere(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := filepath.Join(fdtest.SocketDir(t), "s")
	sock := open(t, "a=unix://"+path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	_, _, end := hold(t, "other=unix://"+path)
	for range 2 {
		if undone, err := sock.Repair(); len(undone) > 0 || !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("somebody else has it: %q, %v", undone, err)
		}
	}
	end()
	// The other process has removed the backup link, because that belongs to the path.
	_, err := sock.Repair()
	checkBeyondRepair(t, err, "the path of a was removed and cannot be repaired: fdclient reload --rebind; if it is not of the configuration: fdclient unbind a, bind it again, and start its workers again")
	if err := sock.Close(); err != nil {
		t.Error(err)
	}
	serves(t, open(t, "a=unix://"+path))
}

// TestRepairBeside: while another socket takes the path, that is not undone.
func TestRepairBeside(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := filepath.Join(fdtest.SocketDir(t), "s")
	old := open(t, "a=unix://"+path)
	sock, err := socket.Open(parse(t, "a=unix://"+path+",mode=0600"), socket.OpenConfig{Replacing: []*socket.Socket{old}})
	if err != nil {
		t.Fatal(err)
	}
	repaired(t, old)
	repaired(t, sock)
	sock.Abort()
	repaired(t, old)
	serves(t, old)
	if got := names(t, filepath.Dir(path)); got != ".s.fdbroker s" {
		t.Errorf("there are files: %s", got)
	}
}

// TestRepairLeavesAlone: a descriptor that is no socket, and O_NONBLOCK.
func TestRepairLeavesAlone(t *testing.T) {
	fdtest.CheckLeaks(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer r.Close()
	n, err := unix.FcntlInt(w.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	pipe, err := put(socket.Donation{Name: "a", Any: true}, scmrights.NewFD(n))
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	repaired(t, pipe)
	sock := open(t, "a=127.0.0.1:0")
	do(t, sock, func(fd int) error { return unix.SetNonblock(fd, false) })
	repaired(t, sock)
	if blocking, err := sock.Blocking(); err != nil || !blocking {
		t.Errorf("O_NONBLOCK was fought: %v", err)
	}
	if err := sock.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := sock.Repair(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// serves checks that a worker gets what a client sends to the address of sock. The test's end closes the connection.
func serves(t *testing.T, sock *socket.Socket) {
	t.Helper()
	c, err := net.Dial(sock.Network(), sock.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	var b [8]byte
	do(t, sock, func(fd int) error {
		if !sock.Packet() {
			conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = unix.Close(conn) })
			fd = conn
		}
		fdtest.Eventually(t, "it arrives", func() bool {
			_, err = unix.Read(fd, b[:1])
			return !errors.Is(err, unix.EAGAIN)
		})
		return err
	})
	if b[0] != 'x' {
		t.Errorf("read %q", b)
	}
}
