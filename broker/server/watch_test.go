package server_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

var watch = call{protocol.Call{Method: protocol.MethodWatch, More: true}, nil}

// event returns the next event, and whether others will follow.
func (c *client) event() (e protocol.Event, continues bool) {
	c.t.Helper()
	r, fds := c.reply()
	if r.Err != nil || len(fds) > 0 {
		c.t.Fatalf("got %v with %d descriptors, want an event", r.Err, len(fds))
	}
	var w protocol.WatchReply
	if err := protocol.DecodeParameters(r.Parameters, &w); err != nil {
		c.t.Fatal(err)
	}
	if w.Event.Time == 0 {
		c.t.Errorf("%s has no time", r.Parameters)
	}
	return w.Event, r.Continues
}

// constant is e without the fields that change from run to run.
func constant(e protocol.Event) string {
	words := []string{e.What}
	if e.Listener != "" {
		words = append(words, e.Listener, e.Network)
	}
	if e.Holder != nil {
		words = append(words, fmt.Sprintf("grant=%d", e.Holder.Grant))
		words = append(words, e.Holder.Names...)
	}
	if e.Method != "" {
		words = append(words, e.Method)
	}
	if e.Why != "" {
		words = append(words, "("+e.Why+")")
	}
	return strings.Join(words, " ")
}

func TestWatch(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0")
	watchers := []*client{b.client(t), b.client(t)}
	for _, w := range watchers {
		w.send(watch)
		if e, continues := w.event(); e.What != protocol.EventWatching || !continues {
			t.Fatalf("got %+v first", e)
		}
	}
	worker := b.spawn(t)
	if err := worker.call(get("a")); err != nil {
		t.Fatal(err)
	}
	b.bind(t, "b=127.0.0.1:0")
	if err := worker.call(get("b")); err != nil {
		t.Fatal(err)
	}
	if err := worker.call(get("c")); !errors.Is(err, protocol.ErrUnknownName) {
		t.Fatal(err)
	}
	worker.kill()
	b.held(t, "a", 0, 0)
	linked := b.client(t)
	linked.send(getMore(protocol.GetParameters{Names: []string{"b"}}))
	linked.got()
	if err := b.Unbind("b"); err != nil {
		t.Fatal(err)
	}
	bad := b.client(t)
	bad.raw("nonsense\x00")
	_ = bad.refused()
	bad.ended()
	want := []string{
		"granted grant=1 a", "bound b tcp", "granted grant=1 b",
		`refused grant=0 io.fdbroker.Get (no listener is called "c"; there are: a, b)`,
		"ended grant=1 a b (exited)", "granted grant=2 b", "ended grant=2 b (unbound)", "unbound b tcp",
		"refused grant=0 (malformed message: invalid character 'o' in literal null (expecting 'u'))",
	}
	for _, w := range watchers {
		for _, line := range want {
			e, continues := w.event()
			if constant(e) != line || !continues {
				t.Errorf("got %s, %v; want %s", constant(e), continues, line)
			}
			if e.What == protocol.EventGranted && e.Holder.Grant == 1 && e.Holder.PID != worker.pid() {
				t.Errorf("%s: pid %d, want %d", line, e.Holder.PID, worker.pid())
			}
		}
	}
}

func TestWatchIsRefused(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0,allow=any")
	c := b.client(t)
	if _, ok := errors.AsType[*protocol.ExpectedMoreError](c.call(protocol.MethodWatch, nil, nil)); !ok {
		t.Error("Watch without more is not refused")
	}
	c.alive()
	w := b.spawn(t, carol, carol)
	if _, ok := errors.AsType[*protocol.PermissionDeniedError](w.call(watch)); !ok {
		t.Error("others may watch")
	}
}

// A watcher that does not read costs a bounded queue, and is told that it has missed events. Its connection
// goes on.
func TestSlowWatcher(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0")
	slow := b.client(t)
	slow.send(watch)
	slow.event()
	b.overrun(t)
	slow.untilOverflow()
	slow.alive()
	slow.send(watch)
	if e, _ := slow.event(); e.What != protocol.EventWatching {
		t.Errorf("got %+v when watching anew", e)
	}
}

// The same is true of a watcher that does not read for longer than any other reply could wait.
func TestWatcherThatSleeps(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{CallTimeout: unhurried}, "a=127.0.0.1:0")
	asleep := b.client(t)
	asleep.send(watch)
	asleep.event()
	b.overrun(t)
	for range 2 { // the first may have begun before the watcher's reply
		late := b.client(t)
		if err := late.refused(); !errors.Is(err, protocol.ErrLimitReached) {
			t.Error(err)
		}
		late.ended()
	}
	asleep.untilOverflow()
	asleep.alive()
}

// A watcher that does not read does not hold up a broker that stops.
func TestStopWithAWatcherThatSleeps(t *testing.T) {
	fdtest.CheckLeaks(t)
	const tries = 5 // a busy machine may be slow, but not each time
	for try := 1; ; try++ {
		b := start(t, server.Config{}, "a=127.0.0.1:0")
		asleep := b.client(t)
		asleep.send(watch)
		asleep.event()
		b.overrun(t)
		begun := time.Now()
		if err := b.stop(); !errors.Is(err, server.ErrClosed) {
			t.Fatal(err)
		}
		took := time.Since(begun)
		var err error
		for r := (protocol.Reply{}); err == nil && r.Err == nil; {
			r, _, err = asleep.next()
		}
		if err == nil {
			t.Error("an error stands behind the events")
		}
		switch {
		case took < time.Second: // calls under way are cut off after a second
			return
		case try == tries:
			t.Fatalf("to stop took %v", took)
		}
	}
}

// overrun makes more happen than a watcher that does not read can be told.
func (b *broker) overrun(t testing.TB) {
	t.Helper()
	other := b.client(t)
	for range overrun { // a few thousand fit into the socket in addition to the queue
		if err := other.call("io.fdbroker.None", nil, nil); err == nil {
			t.Fatal("not refused")
		}
	}
}

const overrun = 10_000

// untilOverflow reads refusals, and then the event which says that there were more.
func (c *client) untilOverflow() {
	c.t.Helper()
	for n := 0; ; n++ {
		e, continues := c.event()
		switch {
		case e.What == protocol.EventOverflow:
			if continues {
				c.t.Error("more is announced behind the last event")
			}
			if n < 1024 || n >= overrun {
				c.t.Errorf("%d of %d events came before the overflow", n, overrun)
			}
			return
		case e.What != protocol.EventRefused || !continues:
			c.t.Fatalf("got %+v", e)
		}
	}
}

// A wait, a grant and a watch end with the connection, at any time.
func TestWatcherGoes(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0")
	for range 50 {
		c := b.client(t)
		c.send(watch)
		c.event()
		b.bind(t, "b=127.0.0.1:0")
		c.close()
		if err := b.Unbind("b"); err != nil {
			t.Fatal(err)
		}
	}
	c := b.client(t)
	c.send(watch, method(protocol.MethodGetInfo, nil)) // never answered: the watch does not end
	c.event()
}
