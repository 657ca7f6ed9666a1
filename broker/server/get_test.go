package server_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

const (
	spec4 = "web=tcp4://127.0.0.1:0"
)

func TestGetReturnsTheSocketsInOrder(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0", "b=udp4://127.0.0.1:0", "c="+unixAddress(t))
	c := b.client(t)
	for _, names := range [][]string{{"a"}, {"b", "a"}, {"c", "b", "a"}} {
		c.send(get(names...))
		reply, fds := c.got()
		if len(reply.Sockets) != len(names) || len(fds) != len(names) || reply.Grant == 0 {
			t.Fatalf("%v: got %+v and %d descriptors", names, reply, len(fds))
		}
		for i, s := range reply.Sockets {
			l := b.listener(t, names[i])
			if s.Name != l.Name || s.Network != l.Network || s.Address != l.Address || s.FileDescriptor != i {
				t.Errorf("got %+v, want %+v as descriptor %d", s, l, i)
			}
			if got := cookie(t, fds[i]); got != l.Cookie {
				t.Errorf("%s: the socket is %d, want %d", s.Name, got, l.Cookie)
			}
		}
	}
}

// unixAddress returns the address of a new path.
func unixAddress(t testing.TB) string { return "unix://" + fdtest.SocketDir(t) + "/s" }

// The broker changes nothing of a socket that it hands out: it stays non-blocking and close-on-exec, with
// its backlog, and the connections in its queue wait for the first holder.
func TestHandingOutChangesNothing(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, spec4+",backlog=7")
	before := b.listener(t, "web")
	early, err := net.Dial("tcp", before.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close()
	if l := b.listener(t, "web"); !l.Orphaned || *l.Queue != 1 {
		t.Errorf("one connection is queued and there is no holder: %+v", l)
	}
	c := b.client(t)
	c.send(get("web"))
	_, fds := c.got()
	if flags := statusFlags(t, fds[0]); flags&unix.O_NONBLOCK == 0 {
		t.Errorf("flags %#x: it blocks", flags)
	}
	after := b.listener(t, "web")
	if *after.Limit != 7 || after.Blocking || after.Flipped || after.Cookie != before.Cookie || after.Orphaned {
		t.Errorf("before %+v, after %+v", before, after)
	}
	ln := fileListener(t, fds[0].File)
	got, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	if got.RemoteAddr().String() != early.LocalAddr().String() {
		t.Errorf("accepted %v, want %v", got.RemoteAddr(), early.LocalAddr())
	}
}

// fileListener makes a listener of the file that file returns; the test closes it.
func fileListener(t testing.TB, file func(string) (*os.File, error)) net.Listener {
	t.Helper()
	f, err := file("listener")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.FileListener(f)
	_ = f.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln
}

// A Get is given all of its names or none: if it fails, it takes no place.
func TestGetIsAllOrNone(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0,max=1", "b=127.0.0.1:0,max=1")
	holder := b.client(t)
	holder.send(getMore(protocol.GetParameters{Names: []string{"b"}}))
	holder.got()
	c := b.client(t)
	for _, names := range [][]string{{"a", "none"}, {"none", "a"}, {"a", "b"}} {
		c.send(getMore(protocol.GetParameters{Names: names}))
		if err := c.refused(); !errors.Is(err, protocol.ErrUnknownName) && !errors.Is(err, protocol.ErrFull) {
			t.Errorf("%v: %v", names, err)
		}
		if l := b.listener(t, "a"); l.Holders != 0 {
			t.Errorf("%v: a has %d holders", names, l.Holders)
		}
	}
	c.alive()
}

func TestUnknownNameSaysWhatThereIs(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "z=127.0.0.1:0", "a=127.0.0.1:0")
	c := b.client(t)
	c.send(get("wbe"))
	unknown, ok := errors.AsType[*protocol.UnknownNameError](c.refused())
	if !ok || unknown.Name != "wbe" || !slices.Equal(unknown.Names, []string{"a", "z"}) {
		t.Errorf("got %+v", unknown)
	}
	for i := range 150 {
		b.bind(t, fmt.Sprintf("m%03d=127.0.0.1:0", i))
	}
	c.send(get("wbe"))
	unknown, ok = errors.AsType[*protocol.UnknownNameError](c.refused())
	if n := protocol.MaxNamesInError; !ok || len(unknown.Names) != n || unknown.Names[0] != "a" || unknown.Names[n-1] != fmt.Sprintf("m%03d", n-2) {
		t.Errorf("got %+v", unknown)
	}
}

func TestGetParameters(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{MaxNamesInCall: 2}, "a=127.0.0.1:0", "b=127.0.0.1:0")
	c := b.client(t)
	for name, want := range map[string]string{
		`{"method":"io.fdbroker.Get"}`:                                       "names",
		`{"method":"io.fdbroker.Get","parameters":null}`:                     "names",
		`{"method":"io.fdbroker.Get","parameters":{}}`:                       "names",
		`{"method":"io.fdbroker.Get","parameters":{"names":[]}}`:             "names",
		`{"method":"io.fdbroker.Get","parameters":{"names":"a"}}`:            "names",
		`{"method":"io.fdbroker.Get","parameters":{"names":["a","a"]}}`:      "names",
		`{"method":"io.fdbroker.Get","parameters":{"names":["a"],"wait":1}}`: "wait",
		`{"method":"io.fdbroker.Get","parameters":[1]}`:                      "parameters",
	} {
		c.raw(name + "\x00")
		p, ok := errors.AsType[*protocol.InvalidParameterError](c.refused())
		if !ok || p.Parameter != want {
			t.Errorf("%s: got %v, want %s", name, p, want)
		}
	}
	c.send(get("a", "b", "c"))
	if l, ok := errors.AsType[*protocol.LimitError](c.refused()); !ok || l.Max != 2 {
		t.Errorf("three names: %v", l)
	}
	c.raw(`{"method":"io.fdbroker.Get","parameters":{"names":["a"],"wait":null,"blocking":null,"later":{}},"new":1}` + "\x00")
	c.got() // unknown fields are ignored, null is absent
}

// raw sends bytes as they are.
func (c *client) raw(text string) {
	c.t.Helper()
	_ = c.uc.SetWriteDeadline(time.Now().Add(patience))
	if err := c.conn.Send([]byte(text)); err != nil {
		c.t.Fatal(err)
	}
}

func TestOneway(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0")
	c := b.client(t)
	once := func(k call) call { k.Oneway = true; return k }
	c.send(once(get("a")), once(get("none")), once(method(protocol.MethodList, nil)), once(method("io.fdbroker.None", nil)),
		once(method(protocol.MethodBind, protocol.BindParameters{Listeners: []string{"b=127.0.0.1:0"}})))
	c.alive() // and the first reply is its own
	if b.listener(t, "a").Holders != 0 {
		t.Error("a oneway Get made a holder")
	}
	b.listener(t, "b")
}

func TestPipelinedCallsAreAnsweredInOrder(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0", "b=127.0.0.1:0")
	c := b.client(t)
	c.send(get("a"), get("none"), method(protocol.MethodGetInfo, nil), get("b", "a"), get("b"))
	if r, fds := c.got(); r.Sockets[0].Name != "a" || len(fds) != 1 {
		t.Errorf("first: %+v", r)
	}
	if err := c.refused(); !errors.Is(err, protocol.ErrUnknownName) {
		t.Errorf("second: %v", err)
	}
	if r, _ := c.reply(); !strings.Contains(string(r.Parameters), "fdbroker") {
		t.Errorf("third: %s", r.Parameters)
	}
	if r, fds := c.got(); r.Sockets[0].Name != "b" || len(fds) != 2 {
		t.Errorf("fourth: %+v", r)
	}
	if r, fds := c.got(); r.Sockets[0].Name != "b" || len(fds) != 1 {
		t.Errorf("fifth: %+v", r)
	}
}

// One reply with descriptors is under way per connection: until the client has read it, the next call is
// not answered.
func TestNextReplyWaitsUntilDescriptorsWereRead(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0")
	c := b.client(t)
	c.send(get("a"))
	readable := func() int { // bytes that wait to be read
		n := 0
		rc, err := c.uc.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = rc.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ) })
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	fdtest.Eventually(t, "the first reply is there", func() bool { return readable() > 0 })
	first := readable()
	for range 20 {
		c.send(get("a"))
	}
	b.client(t).alive() // others are served meanwhile
	if n := readable(); n != first {
		t.Errorf("%d bytes wait, the first reply has %d", n, first)
	}
	for range 21 {
		if _, fds := c.got(); len(fds) != 1 {
			t.Fatalf("got %d descriptors", len(fds))
		}
	}
}

// With more, the grant lasts as long as the connection.
func TestMore(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0")
	c := b.client(t)
	c.send(getMore(protocol.GetParameters{Names: []string{"a"}}))
	r, _ := c.reply()
	if !r.Continues {
		t.Error("no further reply is announced")
	}
	h := b.client(t).list().Holders
	if len(h) != 1 || !h[0].Connection || h[0].PID != os.Getpid() || h[0].State != protocol.StateActive || h[0].Command == "" {
		t.Errorf("holders: %+v", h)
	}
	c.close()
	b.held(t, "a", 0, 0)
}

func TestUnbindTellsHoldersWithMore(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0", "b=127.0.0.1:0")
	one, both := b.client(t), b.client(t)
	one.send(getMore(protocol.GetParameters{Names: []string{"a"}}))
	one.got()
	both.send(getMore(protocol.GetParameters{Names: []string{"a", "b"}}))
	granted, _ := both.got()
	if err := b.Unbind("a"); err != nil {
		t.Fatal(err)
	}
	if g, _ := one.got(); g.Event != protocol.EventUnbound {
		t.Errorf("got %+v", g)
	}
	one.alive() // the call is over, the connection is not
	b.held(t, "b", 1, 0)
	if err := b.Unbind("b"); err != nil {
		t.Fatal(err)
	}
	if g, _ := both.got(); g.Event != protocol.EventUnbound || g.Grant != granted.Grant {
		t.Errorf("got %+v", g)
	}
	both.send(method(protocol.MethodGetInfo, nil), getMore(protocol.GetParameters{Names: []string{"a"}}))
	both.reply()
	if err := both.refused(); !errors.Is(err, protocol.ErrUnknownName) {
		t.Error(err)
	}
}

// Calls behind a Get that waits, or that holds, are answered once it has ended.
func TestCallsBehindAGetThatWaits(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{})
	c := b.client(t)
	c.send(getMore(protocol.GetParameters{Names: []string{"a"}, Wait: true}), method(protocol.MethodGetInfo, nil))
	c.raw(`{"method":"org.varlink.`)
	other := b.client(t)
	other.alive()
	b.bind(t, "a=127.0.0.1:0")
	c.got()
	if err := b.Unbind("a"); err != nil {
		t.Fatal(err)
	}
	c.got() // the event
	c.reply()
	c.raw(`service.GetInfo"}` + "\x00")
	if r, _ := c.reply(); r.Err != nil {
		t.Error(r.Err)
	}
}

// A wake that comes when the request is already decided does not end the connection later, nor does one
// that comes while sockets are being sent.
func TestAnsweredRequestsLeaveTheConnectionAlive(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{})
	for range 300 {
		waiter := b.client(t)
		waiter.send(getOnce(protocol.GetParameters{Names: []string{"a"}, Wait: true}))
		b.bind(t, "a=127.0.0.1:0")
		if r, _ := waiter.reply(); r.Err != nil {
			t.Fatal(r.Err)
		}
		holder := b.client(t)
		holder.send(getMore(protocol.GetParameters{Names: []string{"a"}}))
		if err := b.Unbind("a"); err != nil {
			t.Fatal(err)
		}
		if r, fds := holder.reply(); len(fds) == 1 {
			if !r.Continues {
				t.Error("no event is announced")
			}
			holder.got()
		} else if !errors.Is(r.Err, protocol.ErrUnknownName) {
			t.Error(r.Err)
		}
		waiter.alive()
		holder.alive()
		waiter.close()
		holder.close()
	}
}
