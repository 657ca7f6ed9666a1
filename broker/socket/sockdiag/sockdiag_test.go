package sockdiag_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/broker/socket/sockdiag"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	fdtest.Main(m, map[string]func([]string) int{"nodiag": noDiagHelper})
}

// newSocket returns a socket that is bound and, if backlog is not 0, listens. The test's end closes it.
func newSocket(t *testing.T, family, sotype, backlog int, sa unix.Sockaddr) int {
	t.Helper()
	fd, err := unix.Socket(family, sotype|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, sa); err != nil {
		t.Fatal(err)
	}
	if backlog > 0 {
		if err := unix.Listen(fd, backlog); err != nil {
			t.Fatal(err)
		}
	}
	return fd
}

// inodeOf returns the inode of a socket, in sockfs.
func inodeOf(t *testing.T, fd int) uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return uint32(st.Ino)
}

// TestIdentify: the identity of a socket names its network and address, and its own socket is found at that address.
func TestIdentify(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := filepath.Join(fdtest.SocketDir(t), "s")
	loopback := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	for _, test := range []struct {
		network, address string
		fd, backlog      int
	}{
		{"tcp", "127.0.0.1:", newSocket(t, unix.AF_INET, unix.SOCK_STREAM, 7, loopback), 7},
		{"udp", "127.0.0.1:", newSocket(t, unix.AF_INET, unix.SOCK_DGRAM, 0, loopback), 0},
		{"unix", path, newSocket(t, unix.AF_UNIX, unix.SOCK_STREAM, 5, &unix.SockaddrUnix{Name: path}), 5},
		{"unixgram", "@fdbroker-test-identify", newSocket(t, unix.AF_UNIX, unix.SOCK_DGRAM, 0, &unix.SockaddrUnix{Name: "@fdbroker-test-identify"}), 0},
	} {
		is, err := sockdiag.Identify(test.fd)
		if err != nil || is.Network().Name != test.network || !strings.HasPrefix(is.Address, test.address) {
			t.Errorf("got %v, %v, want %s://%s", is, err, test.network, test.address)
			continue
		}
		if got := is.Backlog(test.fd); got != test.backlog {
			t.Errorf("%s: backlog %d, want %d", is, got, test.backlog)
		}
		var there []sockdiag.Socket
		if is.Network().In(spec.Inet) {
			s := spec.Spec{Network: test.network, Address: is.Address}
			ends, err := s.Endpoints()
			if err != nil || len(ends) != 1 || !is.IsAt(ends[0]) {
				t.Fatalf("%s: endpoints %v, %v", is, ends, err)
			}
			there = sockdiag.Receivers(s, ends[0])
		} else {
			_, there = sockdiag.Unix(is.Address, sockdiag.FileID{})
		}
		if len(there) != 1 || there[0].Inode != inodeOf(t, test.fd) {
			t.Errorf("%s: got %v, want inode %d", is, there, inodeOf(t, test.fd))
		}
	}
}

// TestIdentifyRefuses: a socket without an address and one that does not listen cannot be a listener's.
func TestIdentifyRefuses(t *testing.T) {
	fdtest.CheckLeaks(t)
	loopback := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	if is, err := sockdiag.Identify(newSocket(t, unix.AF_INET, unix.SOCK_STREAM, 0, loopback)); err == nil || !strings.Contains(err.Error(), "does not listen") {
		t.Errorf("got %v, %v", is, err)
	}
	if is, err := sockdiag.Identify(0xffff); !errors.Is(err, unix.EBADF) {
		t.Errorf("got %v, %v", is, err)
	}
}
