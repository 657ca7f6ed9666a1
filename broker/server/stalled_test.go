package server_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// TestStalled: List, Watch and the log tell once that a holder does not accept, and that one does again. A listener
// that nobody holds is orphaned instead.
func TestStalled(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0", "idle=127.0.0.1:0")
	w := b.client(t)
	w.send(watch)
	next := func(what string) protocol.Event {
		t.Helper()
		for {
			if e, _ := w.event(); e.What == what {
				return e
			}
		}
	}
	next(protocol.EventWatching)
	hung := b.spawn(t)
	if err := hung.call(get("web")); err != nil {
		t.Fatal(err)
	}
	web := b.listener(t, "web")
	began := time.Now()
	for _, address := range []string{web.Address, b.listener(t, "idle").Address} {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	e := next(protocol.EventStalled)
	if took := time.Since(began); took < 5*time.Second || took > 6*time.Second+slack {
		t.Errorf("told after %v", took)
	}
	if e.Listener != "web" || e.Network != "tcp" || e.Address != web.Address || !strings.HasPrefix(e.Why, "queue not empty for ") {
		t.Errorf("event %+v", e)
	}
	web, idle := b.listener(t, "web"), b.listener(t, "idle")
	if since := time.Since(time.UnixMicro(web.StalledSince)); !web.Stalled || since < 5*time.Second || since > 7*time.Second+slack {
		t.Errorf("stalled %v, since %v", web.Stalled, since)
	}
	if idle.Stalled || idle.StalledSince != 0 || !idle.Orphaned || web.Orphaned {
		t.Errorf("idle: %+v, web: %+v", idle, web)
	}
	b.helper(t, "serve", "web")
	if served := next(protocol.EventServed); served.Listener != "web" || !strings.HasPrefix(served.Why, "queue empty again after ") {
		t.Errorf("event %+v", served)
	}
	if l := b.listener(t, "web"); l.Stalled || l.StalledSince != 0 {
		t.Errorf("after the end: %+v", l)
	}
	if lines := b.logs.lines(`"level":"warn"`); len(lines) != 1 || !strings.Contains(lines[0], `"name":"web"`) ||
		!strings.Contains(lines[0], e.Why+", although the listener is held") {
		t.Errorf("log: %q", lines)
	}
	if lines := b.logs.lines("queue empty again"); len(lines) != 1 || !strings.Contains(lines[0], `"level":"info"`) {
		t.Errorf("log: %q", lines)
	}
}
