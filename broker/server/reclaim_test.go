package server_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// TestReclaimOfSome: a client that has closed some of its listeners meanwhile reclaims the grant for the
// rest, and requests that wait get the others' places. A client that asks for others besides gets a new
// grant, and its old one takes no place.
func TestReclaimOfSome(t *testing.T) {
	fdtest.CheckLeaks(t)
	specs := []string{"a=127.0.0.1:0,max=1", "b=127.0.0.1:0,max=1", "c=127.0.0.1:0,max=1"}
	for _, step := range []struct {
		names []string
		same  bool
	}{
		{[]string{"b", "a"}, true},
		{[]string{"b"}, true},
		{[]string{"c", "b"}, false},
	} {
		k := newKeeping(t)
		b, _ := k.start(specs...)
		_, was := b.hold(t, protocol.GetParameters{Names: []string{"a", "b"}})
		if err := b.stop(); !errors.Is(err, server.ErrClosed) {
			t.Fatal(err)
		}
		b, _ = k.start(specs...)
		c := b.client(t)
		c.send(getMore(protocol.GetParameters{Names: step.names, Resume: was}))
		reply, fds := c.got()
		if (reply.Grant == was) != step.same || len(fds) != len(step.names) {
			t.Errorf("%v: got %+v, was grant %d", step.names, reply, was)
		}
		for i, s := range reply.Sockets {
			if s.Name != step.names[i] || cookie(t, fds[s.FileDescriptor]) != b.listener(t, s.Name).Cookie {
				t.Errorf("%v: got %+v", step.names, reply)
			}
		}
		for _, name := range []string{"a", "b", "c"} {
			want := 0
			if slices.Contains(step.names, name) {
				want = 1
			}
			b.held(t, name, want, 0)
		}
		c.close()
		for _, name := range []string{"a", "b", "c"} {
			b.held(t, name, 0, 0)
		}
	}
}

// TestReclaimOfAnotherProcess: no process reclaims the grant of another one, even if both are of one user.
func TestReclaimOfAnotherProcess(t *testing.T) {
	fdtest.CheckLeaks(t)
	k := newKeeping(t)
	b, _ := k.start("web=127.0.0.1:0,max=1")
	_, was := b.hold(t, protocol.GetParameters{Names: []string{"web"}})
	if err := b.stop(); !errors.Is(err, server.ErrClosed) {
		t.Fatal(err)
	}
	b, _ = k.start("web=127.0.0.1:0,max=1")
	p := getMore(protocol.GetParameters{Names: []string{"web"}, Resume: was})
	if err := b.spawn(t).call(p); !errors.Is(err, protocol.ErrFull) {
		t.Errorf("got %v", err)
	}
	c := b.client(t)
	c.send(p)
	if reply, _ := c.got(); reply.Grant != was {
		t.Errorf("got grant %d, was %d", reply.Grant, was)
	}
}

// TestFenceIsRestored: the next broker has the same drain fences, and knows that the deploy was replaced.
func TestFenceIsRestored(t *testing.T) {
	fdtest.CheckLeaks(t)
	k := newKeeping(t)
	b, _ := k.start("web=127.0.0.1:0")
	_, old := b.deploy(t, "web")
	_, current := b.deploy(t, "web")
	b.client(t).drain(older(current, "web"))
	if err := b.stop(); !errors.Is(err, server.ErrClosed) {
		t.Fatal(err)
	}
	b, _ = k.start("web=127.0.0.1:0")
	c := b.client(t)
	for _, call := range []call{deploy(old, "web"), getMore(protocol.GetParameters{Names: []string{"web"}, Generation: old})} {
		c.send(call)
		if err := c.refused(); !errors.Is(err, protocol.ErrReplaced) {
			t.Errorf("got %v", err)
		}
	}
	c.send(deploy(current, "web"))
	if reply, _ := c.deployed(); reply.Generation != current {
		t.Errorf("got %+v", reply)
	}
	if _, newer := b.deploy(t, "web"); newer <= current {
		t.Errorf("a new deploy is of generation %d", newer)
	}
}
