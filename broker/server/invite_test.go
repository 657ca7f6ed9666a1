//go:build linux

package server_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// needsPassrights skips a test where everybody can send descriptors at any time.
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

// turnedAway checks that a client cannot send a descriptor, and that this is all.
func (c *client) turnedAway() {
	c.t.Helper()
	r, _ := pipe(c.t)
	if err := c.sendWith(get("x"), r); !errors.Is(err, unix.EPERM) {
		c.t.Errorf("got %v", err)
	}
	c.alive()
}

// Who is let in with a descriptor has as much time for it as for a call.
func TestInvitationEnds(t *testing.T) {
	needsPassrights(t)
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{CallTimeout: 2 * time.Second})
	c := b.client(t)
	if err := c.call(protocol.MethodPut, protocol.PutParameters{Name: "x"}, nil); err != nil {
		t.Fatal(err)
	}
	fdtest.Eventually(t, "the invitation has ended", func() bool { return b.Windows() == 0 })
	c.turnedAway()
	r, _ := pipe(t)
	if _, err := c.put(protocol.PutParameters{Name: "x", Any: true}, r); err != nil {
		t.Errorf("another one: %v", err)
	}
}

// A socket is not taken back any more once it is too late.
func TestInvitationEndsWithItsName(t *testing.T) {
	needsPassrights(t)
	for name, settle := range map[string]func(b *broker) error{
		"bound": func(b *broker) error { return b.Bind(parse(t, "a=127.0.0.1:0")) },
		"late":  func(b *broker) error { return b.WaitPending(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			b := start(t, server.Config{CallTimeout: time.Hour, OfferTime: time.Millisecond})
			for _, text := range []string{"a=127.0.0.1:0", "b=127.0.0.1:0"} {
				b.Lose(parse(t, text))
			}
			c := b.client(t)
			if err := c.call(protocol.MethodAttach, protocol.AttachParameters{Name: "a"}, nil); err != nil {
				t.Fatal(err)
			}
			if n := b.Windows(); n != 1 {
				t.Errorf("%d connections take descriptors", n)
			}
			if err := settle(b); err != nil {
				t.Error(err)
			}
			if n := b.Windows(); n != 0 {
				t.Errorf("%d connections take descriptors", n)
			}
			c.turnedAway()
			if err := c.call(protocol.MethodAttach, protocol.AttachParameters{Name: "a"}, nil); !errors.Is(err, protocol.ErrNameInUse) {
				t.Errorf("got %v", err)
			}
		})
	}
}
