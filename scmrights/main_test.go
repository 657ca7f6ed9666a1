//go:build linux

package scmrights_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	fdtest.Main(m, map[string]func([]string) int{"fewfiles": fewFilesHelper})
}

// rawPair returns the two ends of a Unix stream connection, which block.
func rawPair(t testing.TB) (a, b int) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return p[0], p[1]
}

// pair returns the two ends of a Unix stream connection in the runtime's poller.
func pair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	x, y := rawPair(t)
	return unixConn(t, x), unixConn(t, y)
}

// unixConn takes n.
func unixConn(t testing.TB, n int) *net.UnixConn {
	t.Helper()
	f := os.NewFile(uintptr(n), "pair")
	c, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.(*net.UnixConn)
}

// newConn returns a Conn on c.
func newConn(t testing.TB, c *net.UnixConn) *scmrights.Conn {
	t.Helper()
	sc, err := scmrights.NewConn(c)
	if err != nil {
		t.Fatal(err)
	}
	return sc
}

// connPair returns two connected Conns.
func connPair(t testing.TB) (a, b *scmrights.Conn) {
	t.Helper()
	x, y := pair(t)
	return newConn(t, x), newConn(t, y)
}

// pipes returns the reading ends of n pipes whose writing ends are closed.
func pipes(t testing.TB, n int) []*scmrights.FD {
	t.Helper()
	fds := make([]*scmrights.FD, n)
	for i := range fds {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		_ = unix.Close(p[1])
		fds[i] = scmrights.NewFD(p[0])
	}
	t.Cleanup(func() { scmrights.CloseAll(fds) })
	return fds
}

// number returns the number of f.
func number(t testing.TB, f *scmrights.FD) (n int) {
	t.Helper()
	if err := f.Control(func(fd uintptr) { n = int(fd) }); err != nil {
		t.Fatal(err)
	}
	return n
}

// inode returns the inode of f, which says whether two descriptors are one file.
func inode(t testing.TB, f *scmrights.FD) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(number(t, f), &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func isOpen(n int) bool {
	_, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0)
	return err == nil
}

// fewFilesHelper receives descriptors while it may open only two, and prints whether Recv
// returned the right error and closed all.
func fewFilesHelper([]string) int {
	c, err := net.FileConn(os.NewFile(3, "pair"))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	sc, err := scmrights.NewConn(c.(*net.UnixConn))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	free, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0) // the lowest number that is free
	if err != nil {
		fmt.Println(err)
		return 1
	}
	_ = unix.Close(free)
	lim := unix.Rlimit{Cur: uint64(free) + 2, Max: uint64(free) + 2}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		fmt.Println(err)
		return 1
	}
	_, fds, err := sc.Recv(make([]byte, 16), 8)
	again, derr := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0)
	fmt.Println(errors.Is(err, scmrights.ErrTooMany), len(fds), derr == nil && again == free)
	return 0
}
