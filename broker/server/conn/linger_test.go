package conn

import (
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/scmrights"
)

// TestClearLinger: the close of a descriptor that a client without privilege has sent does not wait, except for one that
// listens and may be in use.
func TestClearLinger(t *testing.T) {
	fdtest.CheckLeaks(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const forever = 3000
	var fds []*scmrights.FD
	for _, c := range []syscall.Conn{ln.(*net.TCPListener), conn.(*net.TCPConn)} {
		rc, err := c.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = rc.Control(func(n uintptr) {
			if err := unix.SetsockoptLinger(int(n), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: forever}); err != nil {
				t.Error(err)
			}
			d, err := unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			fds = append(fds, scmrights.NewFD(d))
		})
	}
	defer func() { scmrights.CloseAll(fds) }()
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[1])
	fds = append(fds, scmrights.NewFD(pipe[0]))
	clearLinger(fds)
	for i, want := range []int{1, 0} {
		_ = fds[i].Control(func(n uintptr) {
			if got, err := unix.GetsockoptInt(int(n), unix.SOL_SOCKET, unix.SO_LINGER); err != nil || got != want {
				t.Errorf("descriptor %d: got %d, %v, want %d", i, got, err, want)
			}
		})
	}
}
