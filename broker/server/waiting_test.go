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

// A request that waits costs no goroutine.
func TestWaitingCostsNoGoroutine(t *testing.T) {
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

// A call behind a Get that waits is answered once the Get has ended, and not before.
func TestCallsBehindAWaitingGet(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0,max=1")
	holder, _ := b.hold(t, protocol.GetParameters{Names: []string{"a"}})
	c := b.client(t)
	c.send(waitFor("a"))
	b.held(t, "a", 1, 1)
	c.send(method(protocol.MethodGetInfo, nil))
	b.client(t).alive() // by then the event loop has seen it
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

// If a request that waits is refused, the connection goes on, and the error names the holders.
func TestRefusedAfterWaiting(t *testing.T) {
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

// If a client goes at the moment at which it is given a place, the next one gets that place.
func TestClientGoesAsItIsGranted(t *testing.T) {
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

// A broker that stops sends first the sockets that it has granted, because the next broker counts those clients as
// holders.
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

// TestWaitOutlivesKnownGrant: a process that waits on a second connection is granted a listener, even if the
// grant by which the broker knew the process has exited meanwhile.
func TestWaitOutlivesKnownGrant(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0")
	first := b.client(t)
	first.send(get("a"))
	first.got()
	second := b.client(t)
	second.send(getOnce(protocol.GetParameters{Names: []string{"b"}, Wait: true}))
	fdtest.Eventually(t, "it waits", func() bool { return len(b.states(t)) == 2 })
	for _, h := range b.client(t).list().Holders {
		if h.Connection {
			t.Errorf("%+v waits for its connection", h)
		}
	}
	if err := b.Unbind("a"); err != nil {
		t.Fatal(err)
	}
	b.bind(t, "b=127.0.0.1:0")
	second.got()
	b.held(t, "b", 1, 0)
}
