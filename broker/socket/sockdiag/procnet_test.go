package sockdiag_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/fdbroker/fdbroker/broker/socket/sockdiag"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/internal/kernel"
	"golang.org/x/sys/unix"
)

// noDiagHelper runs a part of the tests in a process that cannot ask sock_diag.
func noDiagHelper(args []string) int {
	if err := fdtest.Refuse(fdtest.NoDiag()); err != nil {
		fmt.Println(err)
		return 1
	}
	status := 0
	fail := func(format string, args ...any) {
		fmt.Printf(format+"\n", args...)
		status = 1
	}
	for _, name := range []string{"tcp", "udp", "unix"} {
		if why := kernel.Explain(sockdiag.Missing(spec.NetworkOf(name))); why == "" {
			fail("%s: nothing is missing", name)
		}
	}
	loopback, all := [4]byte{127, 0, 0, 1}, [16]byte{}
	for _, c := range []struct {
		network, address string // of a spec that conflicts; a port is added
		family, kind     int
		sa               unix.Sockaddr
	}{
		{"tcp", "127.0.0.1", unix.AF_INET, unix.SOCK_STREAM, &unix.SockaddrInet4{Addr: loopback}},
		{"tcp", "", unix.AF_INET, unix.SOCK_STREAM, &unix.SockaddrInet4{Addr: loopback}},
		{"udp", "127.0.0.1", unix.AF_INET, unix.SOCK_DGRAM, &unix.SockaddrInet4{Addr: loopback}},
		{"tcp", "127.0.0.1", unix.AF_INET6, unix.SOCK_STREAM, &unix.SockaddrInet6{Addr: all}},
		{"udp", "[::1]", unix.AF_INET6, unix.SOCK_DGRAM, &unix.SockaddrInet6{Addr: [16]byte{15: 1}}},
		{"unix", args[0] + "/a b", unix.AF_UNIX, unix.SOCK_STREAM, &unix.SockaddrUnix{Name: args[0] + "/a b"}},
		{"unixgram", "@" + args[0], unix.AF_UNIX, unix.SOCK_DGRAM, &unix.SockaddrUnix{Name: "@" + args[0]}},
	} {
		fd, err := unix.Socket(c.family, c.kind|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Bind(fd, c.sa)
		}
		if err != nil {
			fail("%+v: %v", c, err)
			continue
		}
		if c.kind == unix.SOCK_STREAM {
			_ = unix.Listen(fd, 1)
		}
		var st unix.Stat_t
		_ = unix.Fstat(fd, &st)
		var found []sockdiag.Socket
		if c.family == unix.AF_UNIX {
			_, found = sockdiag.Unix(c.address, sockdiag.FileID{})
		} else {
			is, _ := sockdiag.Identify(fd)
			s := spec.Spec{Network: c.network, Address: c.address + is.Address[len(is.Address)-len(portOf(is.Address)):]}
			ends, err := s.Endpoints()
			if err != nil || len(ends) == 0 {
				fail("%v: %v", s, err)
				continue
			}
			found = sockdiag.Receivers(s, ends[0])
		}
		if len(found) != 1 || found[0].Inode != uint32(st.Ino) || !found[0].NoUID && found[0].UID != uint32(os.Geteuid()) {
			fail("%s %q: got %+v, want inode %d", c.network, c.address, found, st.Ino)
		}
		_ = unix.Close(fd)
	}
	if _, found := sockdiag.Unix("b", sockdiag.FileID{}); len(found) > 0 {
		fail("the end of a path is taken for a path: %+v", found)
	}
	return status
}

// portOf returns the port of an address, with the colon in front.
func portOf(address string) string {
	for i := len(address) - 1; ; i-- {
		if address[i] == ':' {
			return address[i:]
		}
	}
}

// TestWithoutDiag: sockets are found by their addresses also if sock_diag cannot be asked.
func TestWithoutDiag(t *testing.T) {
	if runtime.GOARCH == "386" {
		t.Skip("a filter cannot see what socketcall is asked for")
	}
	fdtest.CheckLeaks(t)
	if out, err := fdtest.Helper(t, "nodiag", filepath.Clean(fdtest.SocketDir(t))).Output(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
