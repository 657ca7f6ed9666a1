package server_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// guarded runs a test with two brokers that have room for one client only: one to which no client can send
// descriptors, and one to which any can.
func guarded(t *testing.T, test func(t *testing.T, b *broker)) {
	specs := []string{"a=127.0.0.1:0", "b=127.0.0.1:0", "one=127.0.0.1:0,max=1"}
	t.Run("guarded", func(t *testing.T) {
		fdtest.CheckLeaks(t)
		test(t, start(t, server.Config{MaxClients: 1}, specs...))
	})
	t.Run("unguarded", func(t *testing.T) {
		fdtest.CheckLeaks(t)
		test(t, startOn(t, server.Config{MaxClients: 1}, unguard, specs...))
	})
}

// only returns a client that has had a reply, once all others are gone.
func (b *broker) only(t *testing.T) (c *client) {
	t.Helper()
	fdtest.Eventually(t, "the others are gone", func() bool {
		c = b.client(t)
		_ = c.conn.Send(encode(t, get("a")))
		r, _, err := c.next()
		if err != nil || r.Err != nil {
			c.close()
			return false
		}
		return true
	})
	return c
}

// wrongs returns the lines about misbehaving clients, except those that were too many.
func (b *broker) wrongs() (lines []string) {
	me := fmt.Sprintf(`"pid":%d,"uid":%d`, os.Getpid(), os.Getuid())
	for _, line := range append(b.logs.lines(`"refused"`, me), b.logs.lines(`"client disconnected`, me)...) {
		if !strings.Contains(line, "limit of clients") {
			lines = append(lines, line)
		}
	}
	return lines
}

// A client that goes in the middle of a call or of a reply has done wrong, and that is logged.
func TestGoneInTheMiddle(t *testing.T) {
	const half, unread = `{"method":"io.`, `"message":"client disconnected before reading the reply"`
	long := method(protocol.MethodGetInterfaceDescription, protocol.InterfaceParameters{Interface: protocol.InterfaceName})
	info := method(protocol.MethodGetInfo, nil)
	for _, k := range []struct {
		name, line string
		do         func(c *client)
	}{
		{"call", "cut short", func(c *client) { c.raw(half) }},
		{"behind a call", "cut short", func(c *client) { c.raw(string(encode(c.t, get("b"))) + half); c.got() }},
		{"reply with descriptors", unread, func(c *client) { c.send(get("b")); c.unread() }},
		{"reply that goes on", unread, func(c *client) { c.send(getMore(protocol.GetParameters{Names: []string{"b"}})); c.unread() }},
		{"reply", unread, func(c *client) { c.send(info); c.unread() }},
		{"reply begun", unread, func(c *client) {
			c.send(info)
			if _, err := c.uc.Read(make([]byte, 1)); err != nil {
				c.t.Error(err)
			}
			c.unread()
		}},
		{"replies that fit nowhere", unread, func(c *client) {
			var calls []call
			for range 100 {
				calls = append(calls, long)
			}
			c.send(calls...)
			c.unread()
		}},
	} {
		t.Run(k.name, func(t *testing.T) {
			guarded(t, func(t *testing.T, b *broker) {
				c := b.only(t)
				k.do(c)
				c.close()
				b.only(t)
				if lines := b.wrongs(); len(lines) != 1 || !strings.Contains(lines[0], k.line) {
					t.Errorf("%d lines, want one of the %s: %q", len(lines), k.line, lines)
				}
			})
		})
	}
}

// unread waits until there is a reply, which it does not read.
func (c *client) unread() {
	c.t.Helper()
	fdtest.Eventually(c.t, "there is a reply", func() bool { return hasInput(c.t, c.uc) })
}

// A client that sends half a call and shuts down its end is told so.
func TestTruncatedCall(t *testing.T) {
	guarded(t, func(t *testing.T, b *broker) {
		c := b.client(t)
		c.raw(`{"method":"io.`)
		if err := c.uc.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		m, ok := errors.AsType[*protocol.MalformedError](c.refused())
		if !ok || m.Reason != "the message is cut short" {
			t.Errorf("got %v", m)
		}
		c.ended()
		b.only(t)
		if lines := b.wrongs(); len(lines) != 1 {
			t.Errorf("logged: %q", lines)
		}
	})
}

// Closing a connection between calls is not wrong, nor is it while the broker lets the client wait.
func TestGoneBetweenCalls(t *testing.T) {
	waiting := protocol.GetParameters{Names: []string{"none"}, Wait: true}
	guarded(t, func(t *testing.T, b *broker) {
		for name, do := range map[string]func(c *client){
			"at once":     func(*client) {},
			"half closed": func(c *client) { _ = c.uc.CloseWrite(); c.ended() },
			"Get":         func(c *client) { c.send(get("b")); c.got() },
			"another":     func(c *client) { c.alive() },
			"held":        func(c *client) { c.send(getMore(protocol.GetParameters{Names: []string{"b"}})); c.got() },
			"waits":       func(c *client) { c.send(getOnce(waiting)) },
			"waits, more": func(c *client) { c.send(getMore(waiting)) },
			"event unread": func(c *client) {
				c.send(getMore(protocol.GetParameters{Names: []string{"one"}}))
				c.got()
				if err := b.Unbind("one"); err != nil {
					t.Error(err)
				}
				c.unread()
				b.bind(t, "one=127.0.0.1:0,max=1")
			},
			"calls behind": func(c *client) {
				c.send(getMore(protocol.GetParameters{Names: []string{"b"}}), method(protocol.MethodGetInfo, nil))
				c.got()
			},
			"watches": func(c *client) {
				c.send(watch)
				c.event()
				b.bind(t, "c=127.0.0.1:0")
				c.unread()
				if err := b.Unbind("c"); err != nil {
					t.Error(err)
				}
			},
		} {
			c := b.only(t)
			do(c)
			c.close()
			b.only(t).close()
			if lines := b.wrongs(); len(lines) != 0 {
				t.Fatalf("%s: logged: %q", name, lines)
			}
		}
	})
}
