//go:build linux

package socket_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/scmrights"
)

// heal heals sock and checks what was undone, in order, each by how it begins.
func heal(t *testing.T, sock *socket.Socket, want ...string) {
	t.Helper()
	undone, err := sock.Heal()
	if err != nil {
		t.Errorf("Heal: %v", err)
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

func TestHealTCP(t *testing.T) {
	for _, text := range []string{"a=:0", "a=127.0.0.1:0", "a=[::1]:0", "a=tcp6://:0", "a=127.0.0.1:0,backlog=7"} {
		t.Run(text, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			sock := open(t, text)
			cookie, address := sock.Cookie(), sock.Address()
			heal(t, sock)
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
				heal(t, sock, c.want...)
				heal(t, sock)
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

// TestHealConnectedAway: a worker may even connect what it has shut down.
func TestHealConnectedAway(t *testing.T) {
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
	heal(t, sock, "shut down")
	serves(t, sock)
}

// TestHealPortZero: a socket that somebody else has bound to port 0 loses its port
// when it is shut down, and gets it back.
func TestHealPortZero(t *testing.T) {
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
		sock, err := socket.AdoptDonated("a", "", fd)
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
		heal(t, sock, want)
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

// TestHealStolenPort: while somebody else has the port nothing heals, and then the
// socket does.
func TestHealStolenPort(t *testing.T) {
	fdtest.CheckLeaks(t)
	sock := open(t, "a=127.0.0.1:0")
	do(t, sock, shutdown(unix.SHUT_RD))
	_, thief, end := hold(t, "thief="+sock.Address())
	for range 2 {
		undone, err := sock.Heal()
		if len(undone) > 0 || !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("beside %s: undone %q, %v", thief, undone, err)
		}
	}
	if who := sock.WhoHas(); !strings.Contains(who, helperCommand()) {
		t.Errorf("WhoHas: %s", who)
	}
	end()
	heal(t, sock, "shut down")
	serves(t, sock)
}

func TestHealPackets(t *testing.T) {
	dir := fdtest.SocketDir(t)
	for _, text := range []string{"a=udp://127.0.0.1:0", "a=udp://[::1]:0", "a=udp://:0", "a=unixgram://" + dir + "/g", "a=unixgram://@fdbroker-test-heal-g"} {
		t.Run(text, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			sock := open(t, text)
			heal(t, sock)
			do(t, sock, connectSelf)
			heal(t, sock, "connected to one peer")
			heal(t, sock)
			if strings.Contains(text, "udp") {
				do(t, sock, setOption(unix.SO_REUSEADDR, 1))
				heal(t, sock, "SO_REUSEADDR set")
			}
			serves(t, sock)
		})
	}
}

// TestBeyondRepair: the kernel never undoes some shutdowns. The error says what to do.
func TestBeyondRepair(t *testing.T) {
	dir := fdtest.SocketDir(t)
	const stop, begin = "stop its workers, fdclient unbind a, then bind it again", "fdclient unbind a, bind it again, and start its workers again"
	for text, advice := range map[string]string{
		"a=udp://127.0.0.1:0": stop, "a=udp://:0": stop, "a=unix://@fdbroker-test-heal-s": stop, "a=unixgram://@fdbroker-test-heal-g": stop,
		"a=unixgram://" + dir + "/g": begin, "a=unix://" + dir + "/s": begin, "a=unixpacket://" + dir + "/p,backlog=3,mode=0600": begin,
	} {
		t.Run(text, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			sock := open(t, text)
			do(t, sock, shutdown(unix.SHUT_RDWR))
			for range 2 {
				undone, err := sock.Heal()
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

func TestHealPath(t *testing.T) {
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
				{func() error { return os.Remove(path) }, []string{"path removed"}}, // by the new spare
			} {
				if err := c.do(); err != nil {
					t.Fatal(err)
				}
				heal(t, sock, c.want...)
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

// TestHealPathElsewhere: a file of another process is left alone. Without a second link
// the path cannot come back.
func TestHealPathElsewhere(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := filepath.Join(fdtest.SocketDir(t), "s")
	sock := open(t, "a=unix://"+path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	_, _, end := hold(t, "other=unix://"+path)
	for range 2 {
		if undone, err := sock.Heal(); len(undone) > 0 || !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("somebody else has it: %q, %v", undone, err)
		}
	}
	end()
	// The other one has removed the spare: it is the path's.
	_, err := sock.Heal()
	checkBeyondRepair(t, err, "the path of a was removed and cannot be repaired: fdclient unbind a, bind it again, and start its workers again")
	if err := sock.Close(); err != nil {
		t.Error(err)
	}
	serves(t, open(t, "a=unix://"+path))
}

// TestHealBeside: while another socket takes the path, that is not undone.
func TestHealBeside(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := filepath.Join(fdtest.SocketDir(t), "s")
	old := open(t, "a=unix://"+path)
	sock, settle, err := socket.OpenBeside(parse(t, "a=unix://"+path+",mode=0600"), []*socket.Socket{old})
	if err != nil {
		t.Fatal(err)
	}
	heal(t, old)
	heal(t, sock)
	settle(false)
	heal(t, old)
	serves(t, old)
	if got := names(t, filepath.Dir(path)); got != ".s.fdbroker s" {
		t.Errorf("there are files: %s", got)
	}
}

// TestHealLeavesAlone: what no rule is about.
func TestHealLeavesAlone(t *testing.T) {
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
	pipe, err := socket.AdoptAny("a", "", scmrights.NewFD(n))
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	heal(t, pipe)
	sock := open(t, "a=127.0.0.1:0")
	do(t, sock, func(fd int) error { return unix.SetNonblock(fd, false) })
	heal(t, sock)
	if blocking, err := sock.Blocking(); err != nil || !blocking {
		t.Errorf("O_NONBLOCK was fought: %v", err)
	}
	if err := sock.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := sock.Heal(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// serves checks that a worker gets what a client sends to the address of sock. The
// test's end closes the connection.
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
