package server_test

import (
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// cpuTime returns how long this process has used processors.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// rests checks that nothing runs in this process.
func rests(t *testing.T, when string) {
	t.Helper()
	const pause = 200 * time.Millisecond
	before := cpuTime(t)
	time.Sleep(pause)
	if used := cpuTime(t) - before; used > pause/4 {
		t.Errorf("%s: %v of a processor in %v", when, used, pause)
	}
}

// unknown is a call whose reply takes as much of a socket's buffer as those of Get and Deploy.
var unknown = method("io.fdbroker.No", nil)

// roomFor returns how many replies to unknown fit into the buffer of a connection.
func (b *broker) roomFor(t *testing.T) int {
	t.Helper()
	c := b.client(t)
	c.send(unknown)
	raw, err := c.uc.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	unread := func() (n int) {
		_ = raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ) })
		return n
	}
	fdtest.Eventually(t, "a reply", func() bool { return unread() > 0 })
	one := unread()
	c.send(slices.Repeat([]call{unknown}, 1000)...)
	n := 0
	fdtest.Eventually(t, "the buffer is full", func() bool {
		last := n
		time.Sleep(20 * time.Millisecond) // nothing tells that the broker has stopped sending
		n = unread() / one
		return n == last
	})
	return n
}

// TestHalfClosedDeployRests: a deploy that has said all costs nothing while it does not read what it was sent.
func TestHalfClosedDeployRests(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0")
	room := b.roomFor(t)
	for n := room - 2; n <= room; n++ {
		c := b.client(t)
		c.send(append(slices.Repeat([]call{unknown}, n), deploy(0, "web"))...)
		time.Sleep(50 * time.Millisecond) // nothing tells that the broker has read all
		b.client(t).drain(all("web"))
		_ = c.uc.CloseWrite()
		rests(t, "half closed")
		c.close()
	}
}

// TestBlockedCloseRests: a connection costs nothing while it waits for the close of what it has received.
func TestBlockedCloseRests(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{CallTimeout: short})
	c := b.client(t)
	if err := c.call(protocol.MethodPut, protocol.PutParameters{Name: "x"}, nil); err != nil {
		t.Fatal(err)
	}
	fd := lingering(t, 2)
	if err := c.conn.Send([]byte("{"), fd); err != nil {
		t.Fatal(err)
	}
	_ = fd.Close()
	_ = c.refused() // it has taken too long
	rests(t, "while the close blocks")
}

// TestReplyWithDescriptorsWaitsForRoom: a reply with descriptors that finds the buffer full is sent once the
// client has read what is in front of it.
func TestReplyWithDescriptorsWaitsForRoom(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0")
	room := b.roomFor(t)
	for n := room - 2; n <= room+2; n++ {
		c := b.client(t)
		c.send(append(slices.Repeat([]call{unknown}, n), get("a"), get("a"))...)
		time.Sleep(20 * time.Millisecond) // the same
		for range n {
			_ = c.refused()
		}
		for range 2 {
			if _, fds := c.got(); len(fds) != 1 {
				t.Errorf("got %d descriptors", len(fds))
			}
		}
		c.close()
	}
}
