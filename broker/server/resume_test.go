//go:build linux

package server_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// TestResumeOfSome: who has closed some of its listeners meanwhile has the grant for the
// rest, and whoever waits gets the others' places; who wants others besides gets a new
// grant, and is not in its own way.
func TestResumeOfSome(t *testing.T) {
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

// TestResumeOfAnotherProcess: nobody goes on with the grant of another process, though it
// be the same user's.
func TestResumeOfAnotherProcess(t *testing.T) {
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

// TestSentAwayForGood: what a drain has sent away stays so with the next broker, and so
// does the deploy that replaced it.
func TestSentAwayForGood(t *testing.T) {
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
