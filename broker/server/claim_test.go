package server_test

import (
	"errors"
	"os"
	"testing"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// TestClaimed: who hands a socket back says which processes that it has started hold it. Those are holders from the first
// moment, so that a client that waits gets none of their places.
func TestClaimed(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0")
	address := b.listener(t, "a").Address
	c := b.client(t)
	c.send(getMore(protocol.GetParameters{Names: []string{"a"}}))
	_, fds := c.got()
	defer fds[0].Close()
	w := b.spawnWith(t, fds[0])
	c.close()
	if err := b.Unbind("a"); err != nil {
		t.Fatal(err)
	}
	b.Lose(parse(t, "a="+address+",max=1"))

	waits := b.client(t)
	waits.send(waitFor("a"))
	b.waiting(t, 1)
	run := b.client(t)
	p := protocol.AttachParameters{
		Name: "a", Holders: []int{1, os.Getpid(), 1 << 22, w.pid(), w.pid()}, DrainSignal: "USR1", Generation: 77,
	}
	if err := run.call(protocol.MethodAttach, p, nil); err != nil {
		t.Fatal(err)
	}
	p.FileDescriptor = new(0)
	if err := run.sendWith(method(protocol.MethodAttach, p), fds[0]); err != nil {
		t.Fatal(err)
	}
	if r, _ := run.reply(); r.Err != nil {
		t.Fatal(r.Err)
	}
	list := run.list()
	if len(list.Holders) != 2 || list.Holders[1].PID != w.pid() || list.Holders[1].Generation != 77 || list.Listeners[0].Waiting != 1 {
		t.Errorf("got %+v", list)
	}
	w.kill()
	if _, fds := waits.got(); len(fds) != 1 {
		t.Errorf("got %d descriptors once the holder has ended", len(fds))
	} else {
		_ = fds[0].Close()
	}
	// What is claimed wrongly.
	b.Lose(parse(t, "b=127.0.0.1:1"))
	for _, p := range []protocol.AttachParameters{
		{Name: "b", Holders: make([]int, 1025)}, {Name: "b", DrainSignal: "BANG"}, {Name: "b", Generation: -1},
	} {
		c := b.client(t)
		c.send(method(protocol.MethodAttach, p))
		err := c.refused()
		_, limit := errors.AsType[*protocol.LimitError](err)
		_, invalid := errors.AsType[*protocol.InvalidParameterError](err)
		if !limit && !invalid {
			t.Errorf("got %v", err)
		}
	}
}
