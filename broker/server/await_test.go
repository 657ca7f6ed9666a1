//go:build linux

package server_test

import (
	"errors"
	"runtime"
	"sync"
	"testing"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

func waitFor(names ...string) call {
	return getMore(protocol.GetParameters{Names: names, Wait: true})
}

// Who waits with more costs no goroutine.
func TestWaitersAtTheDesk(t *testing.T) {
	fdtest.CheckLeaks(t)
	const many = 50
	b := start(t, server.Config{}, "a=127.0.0.1:0,max=1")
	b.hold(t, protocol.GetParameters{Names: []string{"a"}})
	before := runtime.NumGoroutine()
	for i := range many {
		b.client(t).send(waitFor("a"))
		b.held(t, "a", 1, i+1)
	}
	fdtest.Eventually(t, "nothing runs for them", func() bool { return runtime.NumGoroutine() < before+many/2 })
}

// What is sent behind a Get that waits at the desk is answered when that is over, and not
// before.
func TestCallsBehindAWaiter(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0,max=1")
	holder, _ := b.hold(t, protocol.GetParameters{Names: []string{"a"}})
	c := b.client(t)
	c.send(waitFor("a"))
	b.held(t, "a", 1, 1)
	c.send(method(protocol.MethodGetInfo, nil))
	b.client(t).alive() // by then the desk has seen it
	holder.close()
	if _, fds := c.got(); len(fds) != 1 {
		t.Errorf("got %d descriptors", len(fds))
	}
	if err := b.Unbind("a"); err != nil {
		t.Fatal(err)
	}
	if g, _ := c.got(); g.Event != protocol.EventUnbound {
		t.Errorf("got %+v", g)
	}
	if r, _ := c.reply(); r.Err != nil {
		t.Error(r.Err)
	}
}

// A wait that ends in a refusal leaves the connection, and it names the holders.
func TestRefusedWaiter(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0,blocking,max=2")
	first, _ := b.hold(t, protocol.GetParameters{Names: []string{"a"}})
	second, grant := b.hold(t, protocol.GetParameters{Names: []string{"a"}})
	c := b.client(t)
	c.send(getMore(protocol.GetParameters{Names: []string{"a"}, Wait: true, Blocking: new(false)}))
	b.held(t, "a", 2, 1)
	first.close()
	conflict, ok := errors.AsType[*protocol.ConflictError](c.refused())
	if !ok || len(conflict.Holders) != 1 || conflict.Holders[0].Grant != grant || conflict.Holders[0].Command == "" {
		t.Errorf("got %+v", conflict)
	}
	c.alive()
	c.send(waitFor("a"))
	c.got()
	second.close()
}

// A place that is given to one who goes at that very moment is given to the next.
func TestWaiterGoesAsItIsServed(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0,max=1")
	holder, _ := b.hold(t, protocol.GetParameters{Names: []string{"a"}})
	for range 200 {
		going, next := b.client(t), b.client(t)
		going.send(waitFor("a"))
		b.held(t, "a", 1, 1)
		next.send(waitFor("a"))
		b.held(t, "a", 1, 2)
		var wg sync.WaitGroup
		wg.Go(holder.close)
		wg.Go(going.close)
		if _, fds := next.got(); len(fds) != 1 {
			t.Fatalf("got %d descriptors", len(fds))
		}
		wg.Wait()
		b.held(t, "a", 1, 0)
		holder = next
	}
}

// A broker that stops hands out first what it has granted: the next one takes whoever
// that is for a holder.
func TestGrantedAsTheBrokerStops(t *testing.T) {
	fdtest.CheckLeaks(t)
	for range 100 {
		b := start(t, server.Config{})
		c := b.client(t)
		c.send(waitFor("a"))
		fdtest.Eventually(t, "it waits", func() bool { return len(b.client(t).list().Holders) == 1 })
		b.bind(t, "a=127.0.0.1:0")
		if err := b.stop(); !errors.Is(err, server.ErrClosed) {
			t.Error(err)
		}
		_, fds, err := c.next()
		if granted := len(b.logs.lines(`"granted"`)); granted != len(fds) {
			t.Fatalf("%d granted, %d received: %v", granted, len(fds), err)
		}
		_ = b.Close()
	}
}
