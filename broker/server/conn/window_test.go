package conn

import (
	"errors"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
	"golang.org/x/sys/unix"
)

// TestWindowExpires: a window ends after CallTimeout, and the connection goes on without it.
func TestWindowExpires(t *testing.T) {
	for _, guarded := range []bool{true, false} {
		fdtest.CheckLeaks(t)
		r := serve(t, Config{CallTimeout: timeout}, guarded)
		c := r.dial()
		reader, writer := pipe(t)
		for range 2 {
			c.say("window")
			c.answers("open")
			r.windows(0) // once it has expired
			c.alive()
		}
		if guarded {
			c.say("window")
			c.answers("open")
			r.windows(0)
			if err := c.send("take\x00", writer); !errors.Is(err, unix.EPERM) {
				t.Errorf("a descriptor is sent after the window: %v", err)
			}
			c.alive()
		}
		// Another window can be opened.
		c.say("window")
		c.answers("open")
		if n := r.openWindows(); n != 1 {
			t.Errorf("%d windows", n)
		}
		if err := c.send("take\x00", writer); err != nil {
			t.Error(err)
		}
		c.answers("1")
		r.windows(0) // with the call
		_ = writer.Close()
		gone(t, reader)
		c.alive()
		r.count(func() {
			if len(r.refused) > 0 || r.closed > 0 {
				t.Errorf("refused: %v; %d connections closed", r.refused, r.closed)
			}
		})
	}
}

// TestWindowEndsWithItsCall: a window is for the next call only, also without a descriptor.
func TestWindowEndsWithItsCall(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := serve(t, Config{}, false)
	c := r.dial()
	reader, writer := pipe(t)
	c.say("window")
	c.answers("open")
	c.alive()
	r.windows(0)
	if err := c.send("take\x00", writer); err != nil { // the listener lets all connections do it
		if !errors.Is(err, unix.EPERM) {
			t.Fatal(err)
		}
		c.alive()
		_ = c.Close()
	} else {
		if err := c.isRefused(); !errors.Is(err, protocol.ErrMalformed) {
			t.Errorf("got %v", err)
		}
		c.over()
	}
	_ = writer.Close()
	gone(t, reader)

	// One that is open when its connection ends is open no more.
	c = r.dial()
	c.say("window")
	c.answers("open")
	_ = c.Close()
	r.windows(0)
	r.empty()
}

// TestWindowOfABusyLoop: a descriptor that has arrived in time is taken, also if the loop gets to it too late.
func TestWindowOfABusyLoop(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := serve(t, Config{CallTimeout: timeout}, true)
	c := r.dial()
	_, writer := pipe(t)
	c.say("window")
	c.answers("open")
	busy := make(chan struct{})
	r.loop.Post(func() { <-busy })
	if err := c.send("take\x00", writer); err != nil {
		t.Error(err)
	}
	time.Sleep(timeout * 3 / 2) // the window's deadline passes before the loop looks
	close(busy)
	c.answers("1")
	c.alive()
}

// windows waits until so many windows are open.
func (r *rig) windows(n int) {
	r.t.Helper()
	fdtest.Eventually(r.t, "windows are closed", func() bool { return r.openWindows() == n })
}

// openWindows counts the connections on which the kernel takes a descriptor.
func (r *rig) openWindows() (n int) {
	r.on(func() {
		for _, c := range r.loop.conns {
			if !c.windowEnd.IsZero() {
				n++
			}
		}
	})
	return n
}
