package server_test

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// lingering returns a connection whose last close blocks for so many seconds, because data that its peer
// does not read waits in it.
func lingering(t *testing.T, seconds int32) *scmrights.FD {
	t.Helper()
	fd, _ := lingeringUntil(t, seconds)
	return fd
}

// lingeringUntil does the same; reset ends the close before that.
func lingeringUntil(t *testing.T, seconds int32) (fd *scmrights.FD, reset func()) {
	t.Helper()
	ln, _ := listening(t)
	n, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd = scmrights.NewFD(n)
	t.Cleanup(func() { _ = fd.Close() })
	err = ln.Control(func(l uintptr) {
		var at unix.Sockaddr
		if at, err = unix.Getsockname(int(l)); err == nil {
			err = unix.Connect(n, at)
		}
	})
	if err == nil {
		err = unix.SetsockoptLinger(n, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: seconds})
	}
	for ; err == nil; _, err = unix.SendmsgN(n, make([]byte, 1<<16), nil, nil, unix.MSG_DONTWAIT) {
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Fatal(err)
	}
	return fd, func() { _ = ln.Close() }
}

// putLast puts fd, which it takes: the broker's copy is the last one.
func (c *client) putLast(name string, fd *scmrights.FD) {
	c.t.Helper()
	p := protocol.PutParameters{Name: name}
	if err := c.call(protocol.MethodPut, p, nil); err != nil {
		c.t.Fatal(err)
	}
	p.FileDescriptor = new(0)
	m := encode(c.t, put(p))
	if err := c.conn.Send(m[:1], fd); err != nil {
		c.t.Fatal(err)
	}
	_ = fd.Close()
	c.raw(string(m[1:]))
}

// A descriptor that is slow to close holds up the client that sent it, and no other one.
func TestPutOfWhatBlocksInClose(t *testing.T) {
	const seconds = 300 // for longer than the slowest machine needs for what the others ask
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0")
	refused, stored := b.client(t), b.client(t)

	// Refused, because it does not listen.
	fd, endRefused := lingeringUntil(t, seconds)
	refused.putLast("x", fd)

	// Put, and unbound again.
	fd, endStored := lingeringUntil(t, seconds)
	if _, err := stored.put(protocol.PutParameters{Name: "conn", Any: true}, fd); err != nil {
		t.Fatal(err)
	}
	_ = fd.Close()
	stored.send(method(protocol.MethodUnbind, protocol.UnbindParameters{Names: []string{"conn"}}))

	begin := time.Now()
	other := b.client(t)
	for range 20 {
		other.send(get("a"))
		other.got()
		if err := other.call(protocol.MethodBind, protocol.BindParameters{Listeners: []string{"b=127.0.0.1:0"}}, nil); err != nil {
			t.Error(err)
		}
		if err := other.call(protocol.MethodUnbind, protocol.UnbindParameters{Names: []string{"b"}}, nil); err != nil {
			t.Error(err)
		}
		other.list()
	}
	if took := time.Since(begin); took > seconds*time.Second/2 {
		t.Errorf("the other clients waited %v", took)
	}
	if isReadable(t, stored) {
		t.Error("closing did not block")
	}
	endRefused()
	if err := refused.refused(); !errors.Is(err, protocol.ErrBindFailed) {
		t.Errorf("got %v", err)
	}
	endStored()
	if r, _ := stored.reply(); r.Err != nil {
		t.Error(r.Err)
	}
}

// isReadable reports whether the broker has sent something to c, or hung up.
func isReadable(t *testing.T, c *client) bool {
	t.Helper()
	raw, err := c.uc.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	_ = raw.Control(func(fd uintptr) { n, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0) })
	return n > 0
}
