package server_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// forEver is how many seconds a close lingers that no test waits for.
const forEver = 3000

// stops checks that a broker can be stopped.
func (b *broker) stops(t *testing.T) {
	t.Helper()
	stopped := make(chan error, 1)
	go func() { stopped <- errors.Join(b.stop(), b.Close()) }()
	select {
	case err := <-stopped:
		if !errors.Is(err, server.ErrClosed) {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("it does not stop")
	}
}

// A broker also stops if a descriptor that it keeps is a connection whose close blocks.
func TestCloseWhatBlocks(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0")
	fd := lingering(t, forEver)
	if _, err := b.client(t).put(protocol.PutParameters{Name: "conn", Any: true}, fd); err != nil {
		t.Fatal(err)
	}
	_ = fd.Close()
	b.stops(t)
}

// A descriptor that is slow to close does not hold up the end of the broker.
func TestStopWhileCloseBlocks(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{})
	c := b.client(t)
	c.putLast("x", lingering(t, forEver))
	if err := c.refused(); !errors.Is(err, protocol.ErrBindFailed) {
		t.Errorf("got %v", err)
	}
	b.stops(t)
}

// The same is true of a descriptor that the kernel closes while the broker reads.
func TestStopWhileReadBlocks(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startOn(t, server.Config{}, unguard, "a=127.0.0.1:0")
	c := b.client(t)
	// The broker does not read on before the client has read its replies, of which only a few fit.
	const calls = 60
	describe := method(protocol.MethodGetInterfaceDescription, protocol.InterfaceParameters{Interface: protocol.InterfaceName})
	c.send(slices.Repeat([]call{describe}, calls)...)
	fd := lingering(t, forEver)
	if err := c.conn.Send([]byte("{"), fd); err != nil {
		t.Fatal(err)
	}
	_ = fd.Close()
	for range calls - 6 { // the last ones may be read together with the descriptor
		c.reply()
	}
	raw, err := c.uc.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	fdtest.Eventually(t, "it has been read", func() (read bool) {
		err := raw.Control(func(fd uintptr) {
			n, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
			read = err == nil && n <= 256 // as scmrights.Nonblocking.Unread
		})
		return err == nil && read
	})
	b.stops(t)
	if got := b.logs.lines("stopping without waiting for clients"); len(got) != 1 {
		t.Errorf("got %q", got)
	}
	if err := b.Bind(parse(t, "b=127.0.0.1:0")); !errors.Is(err, server.ErrClosed) {
		t.Errorf("Bind: %v", err)
	}
}
