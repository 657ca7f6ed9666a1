package server_test

import (
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// TestCapped: who binds a listener is told what the kernel gives less of, and so is the log.
func TestCapped(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{})
	reply, err := b.client(t).bind("a=127.0.0.1:0,backlog=2000000000", "b=127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	const want = "backlog=2000000000 is more than net.core.somaxconn: the kernel gives "
	if capped := reply.Listeners[0].Capped; len(capped) != 1 || !strings.HasPrefix(capped[0], want) {
		t.Errorf("got %q", capped)
	}
	if capped := reply.Listeners[1].Capped; capped != nil {
		t.Errorf("without a backlog: got %q", capped)
	}
	if n := len(b.logs.lines(want, `"name":"a"`)); n != 1 {
		t.Errorf("%d lines of the log", n)
	}
	for _, l := range b.client(t).list().Listeners {
		if l.Capped != nil {
			t.Errorf("a list has it: %q", l.Capped)
		}
	}
}
