package socket_test

import (
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/fdtest"
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
