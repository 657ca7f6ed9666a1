package socket_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

// TestNoDescriptors opens sockets while only a few descriptors are left, so that each place that needs one fails once.
func TestNoDescriptors(t *testing.T) {
	dir := fdtest.SocketDir(t)
	for _, text := range []string{
		"a=:0", "a=udp://127.0.0.1:0", "a=unix://@fdbroker-test-emfile", "a=unix://" + dir + "/s",
		"a=unix://" + dir + "/m,mode=0600", "a=unix://" + dir + "/stale", "a=unix://" + dir + "/live",
	} {
		t.Run(text, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			if strings.HasSuffix(text, "/live") {
				open(t, text)
			}
			opened := false
			for free := range 8 {
				if strings.HasSuffix(text, "/stale") {
					leaveStale(t, dir+"/stale", unix.SOCK_STREAM)
				}
				before := names(t, dir)
				sock, err := openWith(t, free, parse(t, text))
				if err == nil {
					opened = true
					_ = sock.Close()
					continue
				}
				if after := names(t, dir); after != before {
					t.Errorf("%d free: there was %s, now there is %s", free, before, after)
				}
				if free == 0 && (!errors.Is(err, unix.EMFILE) || !strings.Contains(err.Error(), "too many open files (raise the limit")) {
					t.Errorf("no descriptor free: got %v", err)
				}
			}
			if want := !strings.HasSuffix(text, "/live"); opened != want {
				t.Errorf("opened: got %v, want %v", opened, want)
			}
		})
	}
}

// openWith opens s while this process may open only that many descriptors.
func openWith(t *testing.T, free int, s spec.Spec) (*socket.Socket, error) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 64, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	var filler []int
	defer func() {
		for _, fd := range filler {
			_ = unix.Close(fd)
		}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Fatal(err)
		}
	}()
	for {
		fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			break
		}
		filler = append(filler, fd)
	}
	for range free {
		_ = unix.Close(filler[len(filler)-1])
		filler = filler[:len(filler)-1]
	}
	return socket.Open(s, socket.OpenConfig{})
}

// names lists the files in dir.
func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return strings.Join(list, " ")
}
