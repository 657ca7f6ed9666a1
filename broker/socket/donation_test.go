package socket_test

import (
	"os"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// TestDonatedAddress: a broker that restores a socket has only the text of its spec, so no part of an address may be
// taken for an option.
func TestDonatedAddress(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := fdtest.SocketDir(t)
	for address, good := range map[string]bool{
		dir + "/a=b":         true,
		dir + "/\u00e9 \"":   true,
		"@" + dir:            true,
		dir + "/a,b":         false,
		dir + "/a,allow=any": false,
		"@" + dir + ",max=1": false,
	} {
		fd := rawFD(t, unix.AF_UNIX, unix.SOCK_STREAM, 0, func(n int) error {
			if err := unix.Bind(n, &unix.SockaddrUnix{Name: address}); err != nil {
				return err
			}
			return unix.Listen(n, 9)
		})
		sock, err := put(socket.Donation{Name: "a"}, fd)
		if (err == nil) != good || err != nil && !strings.Contains(err.Error(), "cannot be written in a spec") {
			t.Errorf("%s: %v", address, err)
		}
		if err != nil {
			continue
		}
		if again, err := spec.Parse(sock.Spec().String()); err != nil || !again.Equal(sock.Spec()) {
			t.Errorf("%s: got %v, %v", address, again, err)
		}
		if err := sock.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestDonatedFile: the spec of a Unix socket that was put has the mode and the owners of its file, so that a socket of
// the same spec is like it.
func TestDonatedFile(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := fdtest.SocketDir(t)
	path := dir + "/s"
	bound := func() *scmrights.FD {
		_ = os.Remove(path)
		fd := rawFD(t, unix.AF_UNIX, unix.SOCK_STREAM, 0, func(n int) error {
			if err := unix.Bind(n, &unix.SockaddrUnix{Name: path}); err != nil {
				return err
			}
			return unix.Listen(n, 9)
		})
		if err := os.Chmod(path, 0o626); err != nil {
			t.Fatal(err)
		}
		if os.Geteuid() == 0 {
			if err := os.Chown(path, 77, 78); err != nil {
				t.Fatal(err)
			}
		}
		return fd
	}
	owners := ",mode=0626,user=77,group=78"
	if os.Geteuid() != 0 {
		owners = ",mode=0626"
	}
	for options, want := range map[string]string{
		"":          owners,
		"max=3":     ",max=3" + owners,
		"mode=0600": ",mode=0600",
	} {
		sock, err := put(socket.Donation{Name: "a", Options: options}, bound())
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.ReplaceAll(sock.Spec().String(), ",blocking", ""); got != "a=unix://"+path+",backlog=9"+want {
			t.Errorf("with %q: got %s, want %s", options, got, want)
		}
		if err := sock.Close(); err != nil {
			t.Error(err)
		}
	}
	fd := bound()
	if err := os.Remove(path); err != nil { // whose file is unknown then
		t.Fatal(err)
	}
	sock, err := put(socket.Donation{Name: "a"}, fd)
	if err != nil {
		t.Fatal(err)
	}
	if got := sock.Spec().String(); strings.Contains(got, "mode") {
		t.Errorf("without a file: got %s", got)
	}
	if err := sock.Close(); err != nil {
		t.Error(err)
	}
}
