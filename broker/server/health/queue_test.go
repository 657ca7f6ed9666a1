package health

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

// send puts something into the queue of s.
func send(t *testing.T, s *socket.Socket) {
	t.Helper()
	c, err := net.Dial(s.Network(), s.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
}

// take takes what send has put into the queue of s, as a worker does.
func take(t *testing.T, s *socket.Socket) {
	t.Helper()
	do(t, s, func(fd int) error {
		if s.Packet() {
			_, err := unix.Read(fd, make([]byte, 64))
			return err
		}
		n, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		if err == nil {
			err = unix.Close(n)
		}
		return err
	})
}

// hear handles what the kernel has reported by now, and returns how many reports that were.
func (c *clocked) hear() (n int) {
	c.t.Helper()
	do := func(fd uintptr) {
		_ = unix.TimerfdSettime(int(fd), 0, &unix.ItimerSpec{Value: unix.Timespec{Nsec: 1}}, nil)
	}
	if err := c.timer.Control(do); err != nil {
		c.t.Fatal(err)
	}
	for timer := false; !timer; {
		err := c.poller.Wait(func(id uint64, events uint32) {
			c.Monitor.mu.Lock()
			defer c.Monitor.mu.Unlock()
			switch id {
			case timerID:
				timer = true
			case inotifyID:
				c.pathsChanged()
			default:
				c.reported(c.byID[id], events)
				n++
			}
		})
		if err != nil {
			c.t.Fatal(err)
		}
	}
	return n
}

// held returns a held socket that the monitor has looked at.
func (c *clocked) held(text string) *socket.Socket {
	c.t.Helper()
	s := open(c.t, text)
	c.Watch(s, false)
	c.Held(s)
	c.skip(time.Hour)
	c.hear()
	return s
}

// each runs test with a listener of each kind that has a queue.
func each(t *testing.T, test func(t *testing.T, text string)) {
	for name, address := range map[string]string{
		"tcp": "127.0.0.1:0", "udp": "udp://127.0.0.1:0", "unix": "unix://DIR/s", "abstract": "unix://@DIR/a",
		"unixpacket": "unixpacket://DIR/p", "unixgram": "unixgram://DIR/g",
	} {
		t.Run(name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			test(t, "web="+strings.Replace(address, "DIR", fdtest.SocketDir(t), 1))
		})
	}
}

// TestStalled: a queue that is not empty for 5 s is reported once, and its end. While
// nothing is queued nothing is reported by the kernel, and there is no check.
func TestStalled(t *testing.T) {
	each(t, func(t *testing.T, text string) {
		c := newClocked(t)
		web := c.held(text)
		for range 2 {
			if n := c.hear(); n != 0 {
				t.Fatalf("%d reports of the kernel at rest", n)
			}
			if n := c.during(time.Hour); n > int(time.Hour/lookMost) {
				t.Errorf("%d rounds in an hour at rest", n)
			}
			send(t, web)
			send(t, web)
			if n := c.hear(); n != 1 {
				t.Errorf("%d reports of the kernel of two arrivals", n)
			}
			c.skip(4900 * time.Millisecond)
			if lines := c.all(); len(lines) != 0 {
				t.Errorf("after 4.9 s: %q", lines)
			}
			c.skip(400 * time.Millisecond)
			if lines := c.all(); len(lines) != 1 || lines[0] != "web: stalled 5s" {
				t.Errorf("after 5.3 s: %q", lines)
			}
			if since := time.Since(c.Status(web).Stalled); since < 5*time.Second || since > 6*time.Second {
				t.Errorf("stalled since %v", since)
			}
			take(t, web)
			c.skip(time.Hour)
			if n := c.during(time.Hour); n > int(time.Hour/checkMost)+int(time.Hour/lookMost) {
				t.Errorf("%d rounds in an hour", n)
			}
			take(t, web)
			c.skip(checkMost)
			if lines := c.all(); len(lines) != 2 || !strings.HasPrefix(lines[1], "web: served 2h0m") {
				t.Errorf("after the end: %q", lines)
			}
			if is := c.Status(web); !is.Stalled.IsZero() {
				t.Errorf("after the end stalled since %v", is.Stalled)
			}
			c.lines = nil
		}
	})
}

// TestBusy: a queue that is seen empty now and then is not reported, and the kernel
// reports one arrival in a second.
func TestBusy(t *testing.T) {
	each(t, func(t *testing.T, text string) {
		c := newClocked(t)
		web := c.held(text)
		told := 0
		for range 10 {
			for range 9 { // queued for 4.5 s, then all is taken
				send(t, web)
				told += c.hear()
				c.skip(500 * time.Millisecond)
			}
			for range 9 {
				take(t, web)
			}
			c.skip(500 * time.Millisecond)
			told += c.hear()
		}
		if len(c.all()) > 0 || told != 10 {
			t.Errorf("%d reports of the kernel, and %q", told, c.all())
		}
	})
}

// TestStalledNeedsHolder: what nobody holds is not stalled. A stall outlasts a holder that is
// replaced, and what was queued before a grant counts.
func TestStalledNeedsHolder(t *testing.T) {
	fdtest.CheckLeaks(t)
	c := newClocked(t)
	web := open(t, "web=127.0.0.1:0")
	c.Watch(web, false)
	send(t, web)
	if c.hear() != 0 || c.during(time.Hour) != 0 {
		t.Error("it is looked at without a holder")
	}
	c.Held(web)
	c.skip(100 * time.Millisecond)
	if n := c.hear(); n != 1 {
		t.Errorf("%d reports of what is queued already", n)
	}
	c.skip(4 * time.Second)
	c.Freed(web)
	c.skip(time.Hour)
	if lines := c.all(); len(lines) != 0 || len(c.queues) != 0 {
		t.Errorf("after the holder has left: %q", lines)
	}
	c.Held(web)
	c.skip(100 * time.Millisecond)
	c.hear()
	c.skip(time.Minute)
	c.Freed(web)
	c.skip(time.Minute)
	c.Held(web)
	c.skip(time.Minute)
	take(t, web)
	c.skip(time.Minute)
	if lines := c.all(); len(lines) != 2 || lines[0] != "web: stalled 5s" {
		t.Errorf("with the next holders: %q", lines)
	}
	send(t, web)
	c.hear()
	c.Unwatch(web)
	if c.skip(time.Hour); len(c.queues) != 0 || len(c.all()) != 2 {
		t.Errorf("an unwatched queue is checked: %q", c.all())
	}
}

// TestShutDownIsNotStalled: a shutdown is reported also while an arrival is awaited, and a
// socket that stays shut down is not reported again and again.
func TestShutDownIsNotStalled(t *testing.T) {
	fdtest.CheckLeaks(t)
	c := newClocked(t)
	web, app := c.held("web=127.0.0.1:0"), c.held("app=unix://"+filepath.Join(fdtest.SocketDir(t), "s"))
	for range 3 {
		do(t, web, shutDown)
		if c.hear() == 0 {
			t.Error("a shutdown is not reported")
		}
		c.skip(time.Second)
	}
	do(t, app, shutDown)
	for range 10 {
		c.hear()
		c.skip(time.Minute)
	}
	if n := c.hear(); n != 0 {
		t.Errorf("%d more reports", n)
	}
	if n := len(c.those("web: repaired")); n != 3 || len(c.those("app: faulty")) != 1 || len(c.all()) != 4 {
		t.Errorf("reports: %q", c.all())
	}
	send(t, web)
	c.hear()
	c.skip(6 * time.Second)
	if len(c.those("web: stalled")) != 1 {
		t.Errorf("reports: %q", c.all())
	}
}
