package server_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// places returns how many clients the broker serves before it refuses one.
func (b *broker) places(t testing.TB) (n int) {
	t.Helper()
	for {
		c := b.client(t)
		defer c.close()
		_ = c.conn.Send(encode(t, method(protocol.MethodGetInfo, nil)))
		if r, _, err := c.next(); err != nil || r.Err != nil {
			return n
		}
		n++
	}
}

// However a client behaves, it takes one place, and the place is free afterwards.
func TestEveryPlaceComesBack(t *testing.T) {
	fdtest.CheckLeaks(t)
	const most = 24
	b := start(t, server.Config{MaxClients: most, CallTimeout: short}, "a=127.0.0.1:0", "one=127.0.0.1:0,max=1")
	getA := string(encode(t, get("a")))
	moreA := string(encode(t, getMore(protocol.GetParameters{Names: []string{"a"}})))
	untilEnd := func(c *client) {
		_ = c.uc.CloseWrite()
		_, _ = io.Copy(io.Discard, c.uc)
	}
	for name, visit := range map[string]func(*client){
		"sends nothing":          func(*client) {},
		"sends nothing for long": func(c *client) { _, _ = io.Copy(io.Discard, c.uc) },
		"half a message":         func(c *client) { c.try(getA[:9]) },
		"sends no more":          func(c *client) { c.try(getA[:9]); _, _ = io.Copy(io.Discard, c.uc) },
		"half after a whole one": func(c *client) {
			c.try(getA)
			_, _, _ = c.next()
			c.try(getA[:9])
			_, _ = io.Copy(io.Discard, c.uc)
		},
		"gone before the reply": func(c *client) { c.try(getA) },
		"gone after it":         func(c *client) { c.try(getA); _, _, _ = c.next() },
		"half closed":           func(c *client) { c.try(getA); untilEnd(c) },
		"does not read":         func(c *client) { _ = c.uc.CloseRead(); c.try(getA) },
		"two at once":           func(c *client) { c.try(getA + getA); untilEnd(c) },
		"two, none read":        func(c *client) { c.try(getA); c.try(getA) },
		"more":                  func(c *client) { c.try(moreA); _, _, _ = c.next() },
		"more, gone":            func(c *client) { c.try(moreA) },
		"more, does not read":   func(c *client) { c.try(moreA); _, _, _ = c.next(); c.try(getA); c.try(getA) },
		"unknown":               func(c *client) { c.try(strings.Replace(getA, `"a"`, `"x"`, 1)); _, _, _ = c.next() },
		"garbage":               func(c *client) { c.try("garbage\x00"); _, _ = io.Copy(io.Discard, c.uc) },
		"out of band": func(c *client) {
			rc, err := c.uc.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			_ = rc.Write(func(fd uintptr) bool {
				_ = unix.Sendto(int(fd), []byte("x"), unix.MSG_OOB|unix.MSG_NOSIGNAL, nil)
				return true
			})
		},
	} {
		var wg sync.WaitGroup
		for range most + 4 { // some are refused
			c := b.client(t)
			wg.Go(func() { visit(c); c.close() })
		}
		wg.Wait()
		n := 0
		fdtest.Eventually(t, fmt.Sprintf("%s: %d places", name, most), func() bool {
			n = b.places(t)
			return n >= most
		})
		if n > most {
			t.Errorf("%s: %d clients had a place, there are %d", name, n, most)
		}
	}
	b.held(t, "one", 0, 0)
}

// try sends text, whether it arrives or not.
func (c *client) try(text string) { _ = c.conn.Send([]byte(text)) }

// A client that closes its writing end still gets the replies to its calls.
func TestHalfClosed(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0", "b=127.0.0.1:0")
	for name, calls := range map[string][]call{
		"nothing":     nil,
		"Get":         {get("a")},
		"more":        {getMore(protocol.GetParameters{Names: []string{"b"}})},
		"two Gets":    {get("a"), get("a")},
		"Get, others": {get("a"), method(protocol.MethodGetInfo, nil), get("a")},
	} {
		t.Run(name, func(t *testing.T) {
			for _, late := range []bool{false, true} { // the end comes with the calls, or after the replies
				c := b.client(t)
				c.send(calls...)
				if !late {
					_ = c.uc.CloseWrite()
				}
				for range calls {
					if r, _ := c.reply(); r.Err != nil {
						t.Error(r.Err)
					}
				}
				if late {
					_ = c.uc.CloseWrite()
				}
				c.ended()
				b.held(t, "b", 0, 0)
			}
		})
	}
}

// Calls behind a Get with more are answered in order once that has ended.
func TestCallsBehindMore(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{CallTimeout: short}, "a=127.0.0.1:0")
	spec := b.listener(t, "a").Spec
	for _, together := range []bool{false, true} {
		c, idle := b.client(t), b.client(t)
		more := getMore(protocol.GetParameters{Names: []string{"a"}})
		behind := []call{get("a"), method(protocol.MethodGetInfo, nil), more}
		if together {
			c.send(append([]call{more}, behind...)...)
			c.got()
		} else {
			c.send(more)
			c.got()
			c.send(behind[0])
			c.send(behind[1:]...)
		}
		idle.refused() // CallTimeout has passed by then
		if err := b.Unbind("a"); err != nil {
			t.Fatal(err)
		}
		if g, _ := c.got(); g.Event != protocol.EventUnbound {
			t.Errorf("got %+v", g)
		}
		if err := c.refused(); !errors.Is(err, protocol.ErrUnknownName) {
			t.Error(err)
		}
		if r, _ := c.reply(); r.Err != nil {
			t.Error(r.Err)
		}
		if err := c.refused(); !errors.Is(err, protocol.ErrUnknownName) {
			t.Error(err)
		}
		c.alive()
		b.bind(t, spec)
	}
}

// One connection may hold one listener after the other, with more.
func TestMoreAgainAfterUnbind(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0")
	c := b.client(t)
	for range 50 {
		c.send(getMore(protocol.GetParameters{Names: []string{"a"}}))
		c.got()
		if err := b.Unbind("a"); err != nil {
			t.Fatal(err)
		}
		if g, _ := c.got(); g.Event != protocol.EventUnbound {
			t.Errorf("got %+v", g)
		}
		b.bind(t, "a=127.0.0.1:0")
	}
	c.send(get("a"))
	c.got()
	c.alive()
}

// Clients come, hold a listener and go while that is unbound.
func TestUnbindAmongClients(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "b=127.0.0.1:0")
	over := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				c := b.client(t)
				p := protocol.GetParameters{Names: [][]string{{"a"}, {"a", "b"}}[i%2], Wait: true}
				k := []call{getOnce(p), getMore(p)}[i/2]
				c.send(k)
				r, _, err := c.next()
				if err != nil || r.Err != nil && !errors.Is(r.Err, protocol.ErrUnknownName) {
					t.Errorf("got %v %v", r.Err, err)
					return
				}
				c.close()
			}
		})
	}
	for range 200 {
		b.bind(t, "a=127.0.0.1:0")
		if err := b.Unbind("a"); err != nil {
			t.Error(err)
		}
	}
	close(over)
	b.bind(t, "a=127.0.0.1:0") // for the clients that wait
	wg.Wait()
	if n := len(b.logs.lines("refused", "closed")); n > 0 {
		t.Errorf("%d clients were told of a closed file", n)
	}
}

// unguard makes a control socket what it is on a kernel before Linux 6.16: any client can send it
// descriptors.
func unguard(ln *scmrights.FD) {
	_ = ln.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 1) })
}

// The event loop serves clients as usual if the kernel lets any client send descriptors.
func TestUnguarded(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startOn(t, server.Config{MaxClients: 20, CallTimeout: short}, unguard, "a=127.0.0.1:0")
	for range 5 {
		c, idle, more := b.client(t), b.client(t), b.client(t)
		c.send(get("a"))
		c.got()
		more.send(getMore(protocol.GetParameters{Names: []string{"a"}}))
		more.got()
		idle.refused()
		idle.ended()
		c.alive()
		c.close()
		more.close()
	}
	fdtest.Eventually(t, "all places are free", func() bool { return b.places(t) == 20 })
}

// The event loop does not wait in accept, even if the control socket was passed in blocking mode.
func TestBlockingControlSocket(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startOn(t, server.Config{}, func(ln *scmrights.FD) { setBlocking(t, ln, true) }, "a=127.0.0.1:0")
	for range 40 { // once in a while the loop looks for more than one
		c := b.client(t)
		c.send(get("a"))
		c.got()
		c.close()
	}
	c := b.client(t)
	for range 3 {
		c.send(get("a"))
		c.got()
	}
}

// A call may be as long as MaxMessage says, also if that is very short.
func TestSmallLimits(t *testing.T) {
	fdtest.CheckLeaks(t)
	whole := len(encode(t, get("a")))
	for _, c := range []struct {
		max int
		ok  bool
	}{{1, false}, {whole - 1, false}, {whole, true}, {2047, true}, {2048, true}, {2049, true}} {
		b := start(t, server.Config{MaxMessage: c.max, MaxNamesInCall: 1}, "a=127.0.0.1:0", "b=127.0.0.1:0")
		k := b.client(t)
		message := encode(t, get("a"))
		fill := strings.Repeat(" ", max(0, c.max-whole))
		k.raw(fill + string(message))
		if !c.ok {
			if err := k.refused(); !errors.Is(err, protocol.ErrLimitReached) {
				t.Errorf("%d: %v", c.max, err)
			}
			k.ended()
			continue
		}
		k.got()
		if c.max < 2047 {
			continue
		}
		k.send(get("a", "b"))
		if err := k.refused(); !errors.Is(err, protocol.ErrLimitReached) {
			t.Errorf("%d: two names: %v", c.max, err)
		}
		k.raw(fill + " " + string(message))
		if err := k.refused(); !errors.Is(err, protocol.ErrLimitReached) {
			t.Errorf("%d, one more: %v", c.max, err)
		}
	}
}

// A broker that stops ends all connections, whatever they do.
func TestStopEndsConnections(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0")
	more := getMore(protocol.GetParameters{Names: []string{"a"}})
	var all []*client
	for i := range 40 {
		c := b.client(t)
		all = append(all, c)
		switch i % 4 {
		case 0: // sends nothing
		case 1:
			c.send(get("a"))
			c.got()
		case 2:
			c.send(more)
			c.got()
		case 3: // does not read
			c.send(more)
			c.got()
			c.send(get("a"))
		}
	}
	b.held(t, "a", 21, 0) // this process is one holder
	if err := b.stop(); !errors.Is(err, server.ErrClosed) {
		t.Error(err)
	}
	for _, c := range all {
		c.ended()
	}
}

// A process may exit after its connection was recognized by its grant, and before it is granted more.
func TestProcessEndsWhileItsConnectionAsks(t *testing.T) {
	fdtest.CheckLeaks(t)
	var specs []string
	for i := range 1000 {
		specs = append(specs, fmt.Sprintf("x%d=unix://@fdbroker-test-%d-%d", i, unix.Getpid(), i))
	}
	b := start(t, server.Config{}, append(specs, "a=127.0.0.1:0")...)
	over := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { // so that the connection has to wait for the registry
			for {
				select {
				case <-over:
					return
				default:
					_ = b.Unbind("none")
				}
			}
		})
	}
	for range 40 {
		w := b.spawn(t)
		if err := w.call(get("a")); err != nil {
			t.Fatal(err)
		}
		c := clientOn(t, b.connectedBy(t, w))
		_ = w.cmd.Process.Kill()
		c.send(getOnce(blocking("a", true)))
		c.reply() // the sockets, or that the process has exited
		w.kill()
		c.close()
	}
	close(over)
	wg.Wait()
	b.held(t, "a", 0, 0)
}

// A client that cannot be sent descriptors, because other clients have not read theirs, is told so, and may
// ask again.
func TestTooManyInFlight(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := fdtest.SocketDir(t)
	path := filepath.Join(dir, "c")
	cmd := fdtest.Helper(t, "broker", path, `["a=127.0.0.1:0","b=127.0.0.1:0","c=127.0.0.1:0","d=127.0.0.1:0"]`, "30")
	asUser(t, cmd, alice, alice) // root may have any number under way
	give(t, dir, alice)
	stop := startHelper(t, cmd)
	four := get("a", "b", "c", "d")
	var lazy []*client
	for range 24 {
		c := dialClient(t, path)
		c.send(four)
		fdtest.Eventually(t, "there is a reply", func() bool { return hasInput(t, c.uc) })
		lazy = append(lazy, c)
	}
	late := dialClient(t, path)
	for range 3 {
		late.send(four)
		if l, ok := errors.AsType[*protocol.LimitError](late.refused()); !ok || !strings.Contains(l.Limit, "not read") {
			t.Errorf("got %+v", l)
		}
	}
	for _, c := range lazy {
		c.close()
	}
	fdtest.Eventually(t, "there is room again", func() bool {
		late.send(four)
		r, fds := late.reply()
		return r.Err == nil && len(fds) == 4
	})
	late.close()
	stop()
}

func hasInput(t testing.TB, uc *net.UnixConn) (is bool) {
	t.Helper()
	rc, err := uc.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = rc.Control(func(fd uintptr) {
		n, err := unix.IoctlGetInt(int(fd), unix.SIOCINQ)
		is = err == nil && n > 0
	})
	return is
}
