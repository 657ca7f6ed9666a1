package server_test

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// needsPassrights skips a test on a kernel on which any client can send descriptors at any time.
func needsPassrights(t *testing.T) {
	t.Helper()
	n, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(n)
	if _, err := unix.GetsockoptInt(n, unix.SOL_SOCKET, unix.SO_PASSRIGHTS); err != nil {
		t.Skip("the kernel has no SO_PASSRIGHTS (Linux 6.16)")
	}
}

// cannotSend checks that a client cannot send a descriptor, and that nothing else happens.
func (c *client) cannotSend() {
	c.t.Helper()
	r, _ := pipe(c.t)
	if err := c.sendWith(get("x"), r); !errors.Is(err, unix.EPERM) {
		c.t.Errorf("got %v", err)
	}
	c.alive()
}

// TestWindowEnds: a client that may send a descriptor has as much time for it as for a call.
func TestWindowEnds(t *testing.T) {
	needsPassrights(t)
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{CallTimeout: 2 * time.Second})
	c := b.client(t)
	if err := c.call(protocol.MethodPut, protocol.PutParameters{Name: "x"}, nil); err != nil {
		t.Fatal(err)
	}
	fdtest.Eventually(t, "the window has ended", func() bool { return !takesDescriptors(t) })
	c.cannotSend()
	r, _ := pipe(t)
	if _, err := c.put(protocol.PutParameters{Name: "x", Any: true}, r); err != nil {
		t.Errorf("another one: %v", err)
	}
}

// TestHandBackTooLate: a socket is not taken back once its name is bound, or was given up.
func TestHandBackTooLate(t *testing.T) {
	for name, end := range map[string]func(b *broker) error{
		"bound": func(b *broker) error { return b.Bind(parse(t, "a=127.0.0.1:0")) },
		"late":  func(b *broker) error { return b.WaitPending(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			b := start(t, server.Config{OfferTime: time.Millisecond})
			for _, text := range []string{"a=127.0.0.1:0", "b=127.0.0.1:0"} {
				b.Lose(parse(t, text))
			}
			c := b.client(t)
			if err := c.call(protocol.MethodAttach, protocol.AttachParameters{Name: "a"}, nil); err != nil {
				t.Fatal(err)
			}
			if err := end(b); err != nil {
				t.Error(err)
			}
			ln, _ := listening(t)
			p := protocol.AttachParameters{Name: "a", FileDescriptor: new(0)}
			if err := c.sendWith(method(protocol.MethodAttach, p), ln); err != nil {
				t.Fatal(err)
			}
			if err := c.refused(); !errors.Is(err, protocol.ErrNameInUse) {
				t.Errorf("got %v", err)
			}
			c.alive()
		})
	}
}

// takesDescriptors reports whether a connection to a control socket in this process may receive descriptors: the
// broker's end of it has no peer's name, and SO_PASSRIGHTS.
func takesDescriptors(t *testing.T) bool {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		sa, err := unix.Getsockname(n)
		at, isUnix := sa.(*unix.SockaddrUnix)
		if err != nil || !isUnix || !strings.HasPrefix(at.Name, "/") { // a client's end has no name
			continue
		}
		if on, err := unix.GetsockoptInt(n, unix.SOL_SOCKET, unix.SO_PASSRIGHTS); err == nil && on == 1 {
			return true
		}
	}
	return false
}
