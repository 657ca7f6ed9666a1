package server_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

func TestProcessGrantFollowsTheProcess(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0", "b=127.0.0.1:0")
	w := b.spawn(t)
	for _, name := range []string{"a", "b", "a"} {
		w.ask(get(name))
		if r, n := w.answer(); r.Err != nil || n != 1 {
			t.Fatalf("%s: %v, %d descriptors", name, r.Err, n)
		}
		w.tell("reconnect") // the grant is the process's
	}
	w.tell("exec")
	if err := w.call(method(protocol.MethodGetInfo, nil)); err != nil {
		t.Fatal(err)
	}
	h := b.client(t).list().Holders
	if len(h) != 1 || h[0].PID != w.pid() || h[0].Connection || strings.Join(h[0].Names, " ") != "a b" ||
		!strings.HasPrefix(h[0].Command, "executed") {
		t.Errorf("one process has one grant, of all its names, across exec: %+v", h)
	}
	w.kill()
	b.held(t, "a", 0, 0)
	b.held(t, "b", 0, 0)
	// Events are logged once the registry's lock is free again.
	fdtest.Eventually(t, "one end is logged", func() bool { return len(b.logs.lines(`"ended"`, `"why":"exited"`)) == 1 })
}

// A place goes to the first request that waits once its holder ends, be that a process or a connection.
func TestPlacesAreHandedOverInOrder(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0,max=1")
	w := b.spawn(t)
	if err := w.call(get("a")); err != nil {
		t.Fatal(err)
	}
	var waiters []*client
	wait := getMore(protocol.GetParameters{Names: []string{"a"}, Wait: true})
	for i := range 4 {
		c := b.client(t)
		c.send(wait)
		b.held(t, "a", 1, i+1)
		waiters = append(waiters, c)
	}
	c := b.client(t)
	c.send(get("a"))
	full, ok := errors.AsType[*protocol.FullError](c.refused())
	if !ok || full.Name != "a" || full.Max != 1 || len(full.Holders) != 1 || full.Holders[0].PID != w.pid() || full.Holders[0].Command == "" {
		t.Errorf("got %+v", full)
	}
	waiters[1].close() // a client that has gone gets nothing
	b.held(t, "a", 1, 3)
	w.kill()
	for i, c := range []*client{waiters[0], waiters[2], waiters[3]} {
		if _, fds := c.got(); len(fds) != 1 {
			t.Fatalf("waiter %d got %d descriptors", i, len(fds))
		}
		b.held(t, "a", 1, 2-i)
		c.close()
	}
	b.held(t, "a", 0, 0)
}

// A process that ends while its request waits takes no place.
func TestDeadWaiterTakesNoPlace(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0,max=1")
	holder := b.client(t)
	holder.send(getMore(protocol.GetParameters{Names: []string{"a"}}))
	holder.got()
	w := b.spawn(t)
	w.ask(getOnce(protocol.GetParameters{Names: []string{"a"}, Wait: true}))
	b.held(t, "a", 1, 1)
	next := b.client(t)
	next.send(getMore(protocol.GetParameters{Names: []string{"a"}, Wait: true}))
	b.held(t, "a", 1, 2)
	_ = w.cmd.Process.Kill()
	holder.close()
	next.got()
	b.held(t, "a", 1, 0)
}

func TestNoWaitForWhatIsNoName(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0")
	c := b.client(t)
	for _, name := range []string{"", "a b", "unknown", "x\ny"} {
		c.send(getOnce(protocol.GetParameters{Names: []string{"a", name}, Wait: true}))
		if err := c.refused(); !errors.Is(err, protocol.ErrUnknownName) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestWaitForAName(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0,max=1")
	first, second := b.client(t), b.client(t)
	first.send(getMore(protocol.GetParameters{Names: []string{"a", "later"}, Wait: true}))
	b.held(t, "a", 0, 1)
	if h := b.client(t).list().Holders; len(h) != 1 || h[0].State != protocol.StateWaiting {
		t.Errorf("holders: %+v", h)
	}
	// A request for several names reserves none.
	second.send(getMore(protocol.GetParameters{Names: []string{"a"}}))
	second.got()
	b.bind(t, "later=127.0.0.1:0")
	if l := b.listener(t, "later"); l.Holders != 0 || l.Waiting != 1 {
		t.Errorf("a is not free: %+v", l)
	}
	second.close()
	if g, fds := first.got(); len(fds) != 2 || g.Sockets[1].Name != "later" {
		t.Errorf("got %+v", g)
	}
}

func blocking(name string, is bool) protocol.GetParameters {
	return protocol.GetParameters{Names: []string{name}, Blocking: new(is)}
}

func TestBlocking(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0", "born=127.0.0.1:0,blocking")
	c, other := b.client(t), b.client(t)
	c.send(getMore(blocking("a", true)))
	_, fds := c.got()
	if statusFlags(t, fds[0])&unix.O_NONBLOCK != 0 || !b.listener(t, "a").Blocking || b.listener(t, "a").Flipped {
		t.Errorf("asked for blocking: flags %#x, %+v", statusFlags(t, fds[0]), b.listener(t, "a"))
	}
	other.send(getMore(blocking("a", false)))
	conflict, ok := errors.AsType[*protocol.ConflictError](other.refused())
	if !ok || !conflict.Blocking || conflict.Name != "a" || len(conflict.Holders) != 1 ||
		conflict.Holders[0].PID != os.Getpid() || conflict.Holders[0].Command == "" {
		t.Errorf("got %+v", conflict)
	}
	// Neither does it change one name of several.
	other.send(getMore(protocol.GetParameters{Names: []string{"born", "a"}, Blocking: new(false)}))
	if err := other.refused(); !errors.Is(err, protocol.ErrConflict) {
		t.Error(err)
	}
	if l := b.listener(t, "born"); !l.Blocking || l.Flipped || l.Holders != 0 {
		t.Errorf("born: %+v", l)
	}
	other.send(getMore(blocking("a", true)))
	other.got()
	c.close()
	b.held(t, "a", 1, 0)
	if !b.listener(t, "a").Blocking {
		t.Error("restored while somebody holds it")
	}
	other.close()
	b.held(t, "a", 0, 0)
	if l := b.listener(t, "a"); l.Blocking || l.Flipped || statusFlags(t, fds[0])&unix.O_NONBLOCK == 0 {
		t.Errorf("not restored: %+v", l)
	}
	if n := len(b.logs.lines("a worker changed")); n != 0 {
		t.Errorf("%d flips are logged", n)
	}
}

// If a worker changes O_NONBLOCK, that is shown and logged, and not undone while there are holders.
func TestFlip(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0")
	c, other := b.client(t), b.client(t)
	c.send(getMore(protocol.GetParameters{Names: []string{"a"}}))
	_, fds := c.got()
	other.send(getMore(protocol.GetParameters{Names: []string{"a"}}))
	other.got()
	setBlocking(t, fds[0], true)
	if l := b.listener(t, "a"); !l.Flipped || !l.Blocking {
		t.Errorf("got %+v", l)
	}
	c.close()
	b.held(t, "a", 1, 0)
	if l := b.listener(t, "a"); !l.Flipped {
		t.Error("undone while somebody holds it")
	}
	other.close()
	b.held(t, "a", 0, 0)
	if l := b.listener(t, "a"); l.Flipped || l.Blocking {
		t.Errorf("not restored: %+v", l)
	}
	fdtest.Eventually(t, "it is logged", func() bool { return len(b.logs.lines("a worker changed", `"name":"a"`)) == 1 })
}

// Holders go on using a socket that was unbound, or whose broker stops: O_NONBLOCK must not change under
// them.
func TestUnbindAndStopLeaveO_NONBLOCKAlone(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "unbound=127.0.0.1:0", "link=127.0.0.1:0", "process=127.0.0.1:0")
	var held []func() bool
	for _, name := range []string{"unbound", "link", "process"} {
		c := b.client(t)
		k := getMore(blocking(name, true))
		k.More = name != "process"
		c.send(k)
		_, fds := c.got()
		held = append(held, func() bool { return statusFlags(t, fds[0])&unix.O_NONBLOCK == 0 })
	}
	if err := b.Unbind("unbound"); err != nil {
		t.Fatal(err)
	}
	if err := b.stop(); !errors.Is(err, server.ErrClosed) {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	for i, blocks := range held {
		if !blocks() {
			t.Errorf("socket %d was made non-blocking under its holder", i)
		}
	}
}

// A holder that has ended takes no place, even if the broker has not been told of its end yet.
func TestDeadHolderIsNeverInTheWay(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0,max=1")
	c := b.client(t)
	mode := false
	for range 150 {
		mode = !mode
		w := b.spawn(t)
		if err := w.call(getOnce(blocking("a", mode))); err != nil {
			t.Fatal(err)
		}
		w.kill()
		mode = !mode
		holder := b.client(t)
		holder.send(getMore(blocking("a", mode)))
		holder.got()
		holder.close()
		if err := c.call(protocol.MethodGetInfo, nil, nil); err != nil {
			t.Fatal(err)
		}
		mode = !mode // the next one is of the other mode again
	}
}

// A connection may outlive the process that made it. That process is granted nothing, because nothing would
// end the grant.
func TestGetOfAProcessThatHasEnded(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0,max=1")
	w := b.spawn(t)
	if err := w.call(method(protocol.MethodGetInfo, nil)); err != nil {
		t.Fatal(err)
	}
	uc := b.connectedBy(t, w)
	w.kill()
	c := clientOn(t, uc)
	c.send(get("a"))
	if err, ok := errors.AsType[*protocol.ExitedError](c.refused()); !ok || err.PID != w.pid() {
		t.Errorf("got %v", err)
	}
	if l := b.listener(t, "a"); l.Holders != 0 {
		t.Errorf("%d holders", l.Holders)
	}
	c.send(getMore(protocol.GetParameters{Names: []string{"a"}})) // the connection is alive
	c.got()
}

// connectedBy returns the connection to b that w has made.
func (b *broker) connectedBy(t testing.TB, w *worker) *net.UnixConn {
	t.Helper()
	pidfd, err := unix.PidfdOpen(w.pid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	for n := 3; n < 64; n++ {
		fd, err := unix.PidfdGetfd(pidfd, n, 0)
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
			t.Skipf("pidfd_getfd: %v", err)
		}
		if err != nil {
			continue
		}
		f := os.NewFile(uintptr(fd), "connection")
		c, err := net.FileConn(f)
		_ = f.Close()
		if uc, ok := c.(*net.UnixConn); ok && err == nil && uc.RemoteAddr() != nil && uc.RemoteAddr().String() == b.path {
			t.Cleanup(func() { _ = uc.Close() })
			return uc
		}
		if err == nil {
			_ = c.Close()
		}
	}
	t.Fatal("the worker has no connection")
	return nil
}

// clientOn returns a client on a connection that exists already.
func clientOn(t testing.TB, uc *net.UnixConn) *client {
	t.Helper()
	sc, err := scmrights.NewConn(uc)
	if err != nil {
		t.Fatal(err)
	}
	c := &client{t, uc, protocol.NewConn(sc, protocol.MaxReply, scmrights.MaxFDs)}
	t.Cleanup(c.close)
	return c
}

// If a process cannot be sent a socket that it was granted, the place is free again, and what it has got before
// stays its own.
func TestUndeliveredSocketsAreTakenBack(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "mine=127.0.0.1:0", "a=127.0.0.1:0,max=1")
	c := b.client(t)
	c.send(get("mine"))
	c.got()
	holder := b.client(t)
	holder.send(getMore(protocol.GetParameters{Names: []string{"a"}}))
	holder.got()
	// A client that shuts its socket down for reading cannot be sent anything, but the broker does not count
	// it as gone.
	c.send(getOnce(protocol.GetParameters{Names: []string{"mine", "a"}, Wait: true}))
	b.held(t, "a", 1, 1)
	if err := c.uc.CloseRead(); err != nil {
		t.Fatal(err)
	}
	holder.close()
	b.held(t, "a", 0, 0)
	b.held(t, "mine", 1, 0)
}

// If the broker cannot see the pid of its client, a grant lasts as long as the connection, on which
// everything else goes on.
func TestUnseenProcess(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to make a pid namespace")
	}
	fdtest.CheckLeaks(t)
	path := filepath.Join(fdtest.SocketDir(t), "c")
	cmd := fdtest.Helper(t, "broker", path, `["a=127.0.0.1:0,max=1","b=127.0.0.1:0","idle=127.0.0.1:0"]`, "0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	stopHelper := startHelper(t, cmd)
	c := dialClient(t, path)
	for _, name := range []string{"a", "b", "a"} {
		c.send(get(name))
		if r, _ := c.got(); r.Event != "" {
			t.Errorf("got %+v", r)
		}
	}
	h := c.list().Holders
	if len(h) != 1 || h[0].PID != 0 || !h[0].Connection || strings.Join(h[0].Names, " ") != "a b" {
		t.Errorf("holders: %+v", h)
	}
	if err := c.call(protocol.MethodUnbind, protocol.UnbindParameters{Names: []string{"b"}}, nil); err != nil {
		t.Error(err)
	}
	other := dialClient(t, path)
	other.send(getMore(protocol.GetParameters{Names: []string{"a"}, Wait: true}))
	c.alive()
	c.close()
	other.got()
	other.close()
	var reply protocol.UnbindReply
	if err := dialClient(t, path).call(protocol.MethodUnbind, protocol.UnbindParameters{Names: []string{"idle", "a"}}, &reply); err != nil {
		t.Error(err)
	}
	if !slices.Contains(reply.Remaining, protocol.Remaining{Name: "a"}) { // c may have it still
		t.Errorf("remaining: %+v", reply.Remaining)
	}
	stopHelper()
}
