package server_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// reload makes specs the configuration, also if that unbinds what is in use or leaves processes on an old socket.
func (b *broker) reload(t testing.TB, specs ...string) (server.Changes, error) {
	t.Helper()
	parsed := make([]spec.Spec, len(specs))
	for i, text := range specs {
		parsed[i] = parse(t, text)
	}
	return b.Reload(parsed, server.ReloadOptions{Force: true, Rebind: true})
}

// reloaded makes specs the configuration, and checks the changes.
func (b *broker) reloaded(t testing.TB, want server.Changes, specs ...string) {
	t.Helper()
	got, err := b.reload(t, specs...)
	if err != nil {
		t.Fatal(err)
	}
	got.Renewed = nil
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("changes: got %+v, want %+v", got, want)
	}
}

// cookies returns the sockets of all listeners, by name and spec.
func (b *broker) cookies() map[string]uint64 {
	m := make(map[string]uint64)
	for _, l := range b.Listeners() {
		m[l.Name+" "+l.Spec+" "+l.Address] = l.Cookie
	}
	return m
}

func portOf(address string) string { return address[strings.LastIndexByte(address, ':'):] }

func TestReload(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := fdtest.SocketDir(t)
	b := start(t, server.Config{})
	b.reloaded(t, server.Changes{Bound: []string{"app", "gone", "web"}}, "web=127.0.0.1:0", "gone=127.0.0.1:0", "app=unix://"+dir+"/a")
	b.bind(t, "run=127.0.0.1:0")
	before := b.cookies()
	c := b.client(t)
	c.send(get("web", "run"))
	held, _ := c.got()

	b.reloaded(t, server.Changes{}, "web=127.0.0.1:0", "gone=127.0.0.1:0", "app=unix://"+dir+"/a")
	if got := b.cookies(); !reflect.DeepEqual(got, before) {
		t.Errorf("without a change: got %v, want %v", got, before)
	}
	b.reloaded(t, server.Changes{Bound: []string{"new"}, Unbound: []string{"gone"}, Changed: []string{"app"}},
		"app=unix://"+dir+"/b", "web=127.0.0.1:0", "new=127.0.0.1:0")
	after := b.cookies()
	for key, cookie := range before {
		name, _, _ := strings.Cut(key, " ")
		if stays := name == "web" || name == "run"; stays != (after[key] == cookie) {
			t.Errorf("%s: now there are %v", key, after)
		}
	}
	if files, _ := os.ReadDir(dir); len(files) != 2 || files[0].Name() != ".b.fdbroker" || files[1].Name() != "b" {
		t.Errorf("there are files: %v", files)
	}
	if l := c.list(); len(l.Holders) != 1 || l.Holders[0].Grant != held.Grant || !slices.Equal(l.Holders[0].Names, []string{"web", "run"}) {
		t.Errorf("holders: %+v", l.Holders)
	}
	if n := len(b.logs.lines(`"message":"configuration loaded"`)); n != 3 {
		t.Errorf("%d reloads logged", n)
	}
	b.reloaded(t, server.Changes{Unbound: []string{"app", "new", "web"}})
	if names := b.cookies(); len(names) != 1 {
		t.Errorf("what was bound at run time: %v", names)
	}
}

// TestReloadAllOrNone: if one spec cannot be bound, nothing changes.
func TestReloadAllOrNone(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := fdtest.SocketDir(t)
	b := start(t, server.Config{MaxNames: 8})
	b.reloaded(t, server.Changes{Bound: []string{"app", "gone", "same", "web"}},
		"app=unix://"+dir+"/a", "web=127.0.0.1:0", "gone=127.0.0.1:0", "same=127.0.0.1:0,backlog=9")
	b.bind(t, "run=127.0.0.1:0")
	before := b.cookies()
	port := portOf(b.listener(t, "web").Address)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	changed := []string{"app=unix://" + dir + "/a,mode=0600", "web=:" + port[1:], "same=127.0.0.1:0,backlog=3", "new=127.0.0.1:0"}
	for _, c := range []struct {
		name string
		bad  string
		want error
	}{
		{"bind", "bad=" + taken.Addr().String(), protocol.ErrBindFailed},
		{"path", "bad=unix:///no/such/dir/s", protocol.ErrBindFailed},
		{"option", "same=127.0.0.1:0,fastopen=1,device=no-such-if", protocol.ErrBindFailed},
		{"run-time name", "run=127.0.0.1:0,max=1", protocol.ErrNameInUse},
		{"twice", "new=127.0.0.1:0,max=1", protocol.ErrNameInUse},
	} {
		t.Run(c.name, func(t *testing.T) {
			specs := append(slices.Clone(changed), c.bad)
			if c.name == "option" {
				specs = slices.Delete(specs, 2, 3)
			}
			if _, err := b.reload(t, specs...); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if got := b.cookies(); !reflect.DeepEqual(got, before) {
				t.Errorf("got %v, want %v", got, before)
			}
			if n := b.listener(t, "same"); *n.Limit != 9 {
				t.Errorf("the backlog is %d", *n.Limit)
			}
			for _, name := range []string{"app", "web", "gone"} {
				l := b.listener(t, name)
				conn, err := net.Dial(l.Network, l.Address)
				if err != nil {
					t.Fatal(err)
				}
				_ = conn.Close()
			}
		})
	}
	var many []string
	for i := range 8 {
		many = append(many, fmt.Sprintf("n%d=127.0.0.1:0", i))
	}
	if _, err := b.reload(t, many...); !errors.Is(err, protocol.ErrLimitReached) {
		t.Errorf("too many names: got %v", err)
	}
	if got := b.cookies(); !reflect.DeepEqual(got, before) {
		t.Errorf("got %v, want %v", got, before)
	}
	if files, _ := os.ReadDir(dir); len(files) != 2 { // with a second link each
		t.Errorf("there are files: %v", files)
	}
}

// TestReloadSameAddress: the next socket is bound while the last one is open, also if a worker holds that
// and goes on.
func TestReloadSameAddress(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{})
	b.reloaded(t, server.Changes{Bound: []string{"web"}}, "web=127.0.0.1:0")
	first := b.listener(t, "web")
	port := portOf(first.Address)
	c := b.client(t)
	c.send(getMore(protocol.GetParameters{Names: []string{"web"}}))
	grant, fds := c.got()

	b.reloaded(t, server.Changes{Changed: []string{"web"}}, "web=127.0.0.1"+port+",freebind")
	if l := b.listener(t, "web"); l.Cookie != first.Cookie || l.Holders != 1 {
		t.Errorf("with another option: got %+v", l)
	}
	b.reloaded(t, server.Changes{Changed: []string{"web"}}, "web=:"+port[1:])
	second := b.listener(t, "web")
	if second.Cookie == first.Cookie || portOf(second.Address) != port || second.Holders != 0 {
		t.Errorf("got %+v", second)
	}
	if told, _ := c.got(); told.Grant != grant.Grant || told.Event != protocol.EventUnbound {
		t.Errorf("the holder of the old socket was told %+v", told)
	}
	if cookie(t, fds[0]) != first.Cookie {
		t.Error("the worker's socket is another one")
	}
	scmrights.CloseAll(fds)

	b.reloaded(t, server.Changes{Changed: []string{"web"}}, "web=127.0.0.1"+port)
	b.reloaded(t, server.Changes{Bound: []string{"www"}, Unbound: []string{"web"}}, "www=127.0.0.1"+port) // another name
	if conn, err := net.Dial("tcp", "127.0.0.1"+port); err != nil {
		t.Error(err)
	} else {
		_ = conn.Close()
	}
}

// TestReloadRules: an option that is not the socket's changes without a new socket.
func TestReloadRules(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{})
	b.reloaded(t, server.Changes{Bound: []string{"web"}}, "web=127.0.0.1:0,max=1")
	was := b.listener(t, "web")
	first, second := b.client(t), b.client(t)
	first.send(getMore(protocol.GetParameters{Names: []string{"web"}}))
	first.got()
	second.send(getMore(protocol.GetParameters{Names: []string{"web"}, Wait: true}))
	b.held(t, "web", 1, 1)
	b.reloaded(t, server.Changes{Changed: []string{"web"}}, "web=127.0.0.1:0,max=2,allow=uid:4242,backlog=5,blocking")
	second.got() // the place that it waits for exists now
	l := b.listener(t, "web")
	if l.Cookie != was.Cookie || l.Max != 2 || *l.Limit != 5 || l.Holders != 2 || l.Blocking || !strings.Contains(l.Spec, "allow=uid:4242") {
		t.Errorf("got %+v", l)
	}
	first.close()
	second.close()
	b.held(t, "web", 0, 0)
	if l := b.listener(t, "web"); !l.Blocking || l.Flipped {
		t.Errorf("without holders: %+v", l)
	}
}

// TestReloadRuntime: a reload leaves a listener alone that was bound by Bind, until the configuration has
// the very same.
func TestReloadRuntime(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "run=127.0.0.1:0")
	before := b.cookies()
	b.reloaded(t, server.Changes{})
	b.reloaded(t, server.Changes{}, "run=127.0.0.1:0")
	if got := b.cookies(); !reflect.DeepEqual(got, before) {
		t.Errorf("got %v, want %v", got, before)
	}
	if err := b.Unbind("run"); err != nil {
		t.Fatal(err)
	}
	b.reloaded(t, server.Changes{Bound: []string{"run"}}, "run=127.0.0.1:0") // configured, and so bound again
	b.reloaded(t, server.Changes{Unbound: []string{"run"}})
}

// TestReloadUnderLoad: clients of a name that stays notice no reload. If a socket is replaced at its
// address, no connection is refused.
func TestReloadUnderLoad(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{})
	if _, err := b.reload(t, "web=127.0.0.1:0", "x=127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	address, port := b.listener(t, "web").Address, portOf(b.listener(t, "x").Address)
	worker := b.client(t)
	worker.send(get("web"))
	_, fds := worker.got()
	ln := fileListener(t, fds[0].File)
	ctx, cancel := context.WithCancel(context.Background())
	var accepting, running sync.WaitGroup
	defer accepting.Wait()
	defer ln.Close()
	defer running.Wait()
	defer cancel()
	accepting.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("x"))
			_ = c.Close()
		}
	})
	running.Go(func() { // clients of the name that stays
		for ctx.Err() == nil {
			c, err := net.Dial("tcp", address)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Error(err)
			}
			_ = c.Close()
		}
	})
	running.Go(func() { // clients of the name whose socket is replaced
		for ctx.Err() == nil {
			c, err := net.Dial("tcp", "127.0.0.1"+port)
			if errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) { // a reset behind a FIN
				continue // it was in the queue of the old socket, which had no holder
			}
			if err != nil {
				t.Error(err)
				return
			}
			_ = c.Close()
		}
	})
	running.Go(func() { // workers
		c := b.client(t)
		for ctx.Err() == nil {
			c.send(get("web", "x"))
			_, fds := c.got()
			scmrights.CloseAll(fds)
		}
	})
	running.Go(func() { // operators
		for ctx.Err() == nil {
			if err := b.Bind(parse(t, "run=127.0.0.1:0")); err != nil {
				t.Error(err)
			}
			if err := b.Unbind("run"); err != nil {
				t.Error(err)
			}
		}
	})
	for i := range 100 {
		specs := []string{"web=127.0.0.1:0", "x=127.0.0.1" + port}
		switch i % 3 {
		case 1:
			specs = []string{"web=127.0.0.1:0,max=9", "x=:" + port[1:], "y=127.0.0.1:0"}
		case 2:
			specs = append(specs, "bad=unix:///no/such/dir/s")
		}
		if _, err := b.reload(t, specs...); (err != nil) != (i%3 == 2) {
			t.Fatal(err)
		}
	}
}

// TestReloadMethod: which callers may reload, and the replies.
func TestReloadMethod(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{})
	if err := b.client(t).call(protocol.MethodReload, nil, nil); !errors.Is(err, protocol.ErrReloadFailed) {
		t.Errorf("without a configuration: got %v", err)
	}
	fails := make(chan error, 1)
	b = start(t, server.Config{Reload: func(server.ReloadOptions) (server.Changes, error) {
		return server.Changes{Changed: []string{"web"}}, <-fails
	}})
	c := b.client(t)
	var r protocol.ReloadReply
	fails <- nil
	if err := c.call(protocol.MethodReload, nil, &r); err != nil || r.Bound == nil || r.Unbound == nil || !slices.Equal(r.Changed, []string{"web"}) {
		t.Errorf("got %+v, %v", r, err)
	}
	fails <- &protocol.ReloadFailedError{Reasons: []string{"f:1: x", "f:2: y"}}
	if err := c.call(protocol.MethodReload, nil, nil); !errors.Is(err, protocol.ErrReloadFailed) || err.Error() != "f:1: x\nf:2: y" {
		t.Errorf("got %v", err)
	}
	if os.Getuid() != 0 {
		return
	}
	if err := b.spawn(t, 4242, 4242).call(method(protocol.MethodReload, nil)); !errors.Is(err, protocol.ErrDenied) {
		t.Errorf("another user: got %v", err)
	}
}

// TestConfigure: passed sockets are used for the specs of their names, or become listeners. If one cannot,
// nothing is bound, and all of them are closed.
func TestConfigure(t *testing.T) {
	fdtest.CheckLeaks(t)
	passed := func(name, spec string) (server.Passed, *socket.Socket) {
		sock, err := socket.Open(parse(t, spec), socket.OpenConfig{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = sock.Close() })
		fd, err := sock.FD().Dup()
		if err != nil {
			t.Fatal(err)
		}
		return server.Passed{Name: name, FD: fd}, sock
	}
	newServer := func() *server.Server {
		s, err := server.New(server.Config{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return s
	}
	web, webOwn := passed("web", "a=127.0.0.1:0")
	other, otherOwn := passed("foo.socket", "a=udp://127.0.0.1:0")
	s := newServer()
	specs := []spec.Spec{parse(t, "web=:80,max=3"), parse(t, "adm=127.0.0.1:0")}
	if err := s.Configure(specs, []server.Passed{web, other}, nil); err != nil {
		t.Fatal(err)
	}
	ls := s.Listeners()
	if len(ls) != 3 || ls[1].Cookie != otherOwn.Cookie() || ls[1].Network != "udp" || ls[2].Cookie != webOwn.Cookie() || ls[2].Address != webOwn.Address() || ls[2].Max != 3 {
		t.Errorf("got %+v", ls)
	}
	// Another spec changes its options, and not the socket that was passed.
	changes, err := s.Reload([]spec.Spec{parse(t, "web=:81,max=2,freebind")}, server.ReloadOptions{})
	if err != nil || !slices.Equal(changes.Changed, []string{"web"}) || !slices.Equal(changes.Unbound, []string{"adm"}) {
		t.Errorf("got %+v, %v", changes, err)
	}
	if _, err := s.Reload([]spec.Spec{parse(t, "web=udp://:81")}, server.ReloadOptions{}); !errors.Is(err, protocol.ErrBindFailed) {
		t.Errorf("another network: got %v", err)
	}
	if ls := s.Listeners(); len(ls) != 2 || ls[1].Cookie != webOwn.Cookie() || ls[1].Max != 2 {
		t.Errorf("got %+v", ls)
	}

	good, _ := passed("web", "a=127.0.0.1:0")
	bad, _ := passed("adm", "a=udp://127.0.0.1:0")
	unknown, _ := passed("unknown", "a=127.0.0.1:0")
	s = newServer()
	n, err := unix.MemfdCreate("", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	err = s.Configure(nil, []server.Passed{{Name: "file", FD: scmrights.NewFD(n)}}, nil)
	if want := `the socket "file": the descriptor that was passed is not a socket`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	s = newServer()
	err = s.Configure(specs, []server.Passed{good, bad, unknown}, nil)
	if !errors.Is(err, protocol.ErrBindFailed) || !strings.Contains(err.Error(), "adm=127.0.0.1:0: the socket that was passed is udp://") || !strings.Contains(err.Error(), `"unknown"`) {
		t.Errorf("got %v", err)
	}
	if len(s.Listeners()) > 0 {
		t.Errorf("there are %+v", s.Listeners())
	}
	for _, p := range []server.Passed{good, bad, unknown} {
		if p.FD.Control(func(uintptr) {}) == nil {
			t.Errorf("%s is still open", p.Name)
		}
	}
}

// TestReloadBeyondRepair: a socket that cannot be repaired is replaced if that is asked for. Clients with more are told to
// get the new one.
func TestReloadBeyondRepair(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := fdtest.SocketDir(t) + "/sub"
	makeDir := func() {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	makeDir()
	b := start(t, server.Config{})
	specs := []spec.Spec{parse(t, "app=unix://"+dir+"/s")}
	if _, err := b.Reload(specs, server.ReloadOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, harm := range map[string]func(fd *scmrights.FD){
		"shut down": func(fd *scmrights.FD) {
			_ = fd.Control(func(n uintptr) { _ = unix.Shutdown(int(n), unix.SHUT_RDWR) })
		},
		"directory made anew": func(*scmrights.FD) {
			if err := os.Rename(dir, dir+"-gone"); err != nil { // in one step: the broker links the path again
				t.Fatal(err)
			}
			makeDir()
		},
	} {
		t.Run(name, func(t *testing.T) {
			was := b.listener(t, "app")
			c := b.client(t)
			c.send(getMore(protocol.GetParameters{Names: []string{"app"}}))
			_, fds := c.got()
			harm(fds[0])
			fdtest.Eventually(t, "the fault is seen", func() bool { return b.listener(t, "app").Ailment != "" })
			if _, err := b.Reload(specs, server.ReloadOptions{}); err != nil || b.listener(t, "app").Cookie != was.Cookie {
				t.Errorf("without rebind: %v", err)
			}
			changes, err := b.Reload(specs, server.ReloadOptions{Rebind: true})
			if err != nil || !slices.Equal(changes.Changed, []string{"app"}) {
				t.Fatalf("got %+v, %v", changes, err)
			}
			if told, _ := c.got(); told.Event != protocol.EventUnbound {
				t.Errorf("the holder was told %+v", told)
			}
			scmrights.CloseAll(fds)
			conn, err := net.Dial("unix", dir+"/s")
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.Close()
			if now := b.listener(t, "app"); now.Cookie == was.Cookie || now.Ailment != "" {
				t.Errorf("got %+v", now)
			}
		})
	}
}
