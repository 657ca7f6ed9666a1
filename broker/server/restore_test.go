package server_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/broker/server/journal"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// keeping is a store in memory.
type keeping struct {
	t    testing.TB
	path string // of the control socket

	mu   sync.Mutex
	held map[string]*scmrights.FD
}

func newKeeping(t testing.TB) *keeping {
	k := &keeping{t: t, path: fdtest.SocketDir(t) + "/c", held: make(map[string]*scmrights.FD)}
	t.Cleanup(func() {
		for _, fd := range k.held {
			_ = fd.Close()
		}
	})
	return k
}

func (k *keeping) Keep(name string, fd *scmrights.FD) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	dup, err := fd.Dup()
	if err != nil {
		return err
	}
	if old := k.held[name]; old != nil {
		_ = old.Close()
	}
	k.held[name] = dup
	return nil
}

func (k *keeping) Forget(name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.held[name] == nil {
		return errors.New("there is no " + name)
	}
	_ = k.held[name].Close()
	delete(k.held, name)
	return nil
}

func (k *keeping) names() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Sorted(maps.Keys(k.held))
}

// passed returns duplicates of all descriptors in the store.
func (k *keeping) passed() (all []server.Passed) {
	k.t.Helper()
	for _, name := range k.names() {
		dup, err := k.held[name].Dup()
		if err != nil {
			k.t.Fatal(err)
		}
		all = append(all, server.Passed{Name: name, FD: dup})
	}
	return all
}

// journal returns the one journal in the store.
func (k *keeping) journal() *scmrights.FD {
	k.t.Helper()
	var journals []*scmrights.FD
	for name, fd := range k.held {
		if strings.HasPrefix(name, "@state") {
			journals = append(journals, fd)
		}
	}
	if len(journals) != 1 {
		k.t.Fatalf("there are %d journals: %v", len(journals), k.names())
	}
	return journals[0]
}

// start starts the next broker. Its end leaves the same as a kill -9.
func (k *keeping) start(specs ...string) (*broker, server.Takeover) {
	t := k.t
	t.Helper()
	b := &broker{logs: new(logs), path: k.path}
	s, err := server.New(server.Config{Store: k, Outlived: true, Logger: zerolog.New(b.logs)})
	if err != nil {
		t.Fatal(err)
	}
	b.Server = s
	took, err := s.Restore(k.passed())
	if err != nil {
		t.Fatal(err)
	}
	control, err := server.ListenControl(server.ControlConfig{Path: k.path, Restored: took.Control})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.KeepControl(control); err != nil {
		t.Fatal(err)
	}
	var parsed []spec.Spec
	for _, text := range specs {
		parsed = append(parsed, parse(t, text))
	}
	if err := s.Configure(parsed, nil, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, control.Listener) }()
	b.stop = sync.OnceValue(func() error {
		cancel()
		err := <-served
		control.Release()
		return errors.Join(err, s.Close())
	})
	t.Cleanup(func() { _ = b.stop() })
	return b, took
}

// TestRestore: the next broker has the same listeners and grants.
func TestRestore(t *testing.T) {
	fdtest.CheckLeaks(t)
	k := newKeeping(t)
	path := fdtest.SocketDir(t) + "/s"
	config := []string{"web=127.0.0.1:0,max=2,backlog=7", "app=unix://" + path, "log=udp://127.0.0.1:0", "abs=unix://@fdbroker-restore-test,blocking"}
	b, took := k.start(config...)
	if took.Restarted || took.Control != nil {
		t.Errorf("the first broker took over: %+v", took)
	}
	b.bind(t, "run=127.0.0.1:0,allow=any", "gone=127.0.0.1:0")
	fd, _ := listening(t)
	if err := b.Put(server.Donation{Name: "put", FD: fd}); err != nil {
		t.Fatal(err)
	}
	r, _ := pipe(t)
	if err := b.Put(server.Donation{Name: "pipe", Any: true, Options: "max=3", FD: r}); err != nil {
		t.Fatal(err)
	}
	if err := b.Unbind("gone"); err != nil {
		t.Fatal(err)
	}
	c := b.client(t)
	c.send(get("web", "run"))
	first, _ := c.got()
	before, cookies, stored := b.Listeners(), b.cookies(), k.names()
	for range 3 {
		if err := b.stop(); !errors.Is(err, server.ErrClosed) {
			t.Fatal(err)
		}
		b, took = k.start(config...)
		if !took.Restarted || took.Why != protocol.WhyStopped || took.Listeners != 7 || took.Grants != 1 {
			t.Errorf("took over: %+v", took)
		}
		if now := b.cookies(); !maps.Equal(now, cookies) {
			t.Errorf("sockets: %v, were %v", now, cookies)
		}
		for i, l := range b.Listeners() {
			if was := before[i]; l.Spec != was.Spec || l.Address != was.Address || l.Blocking != was.Blocking || l.Holders != was.Holders || l.Max != was.Max {
				t.Errorf("listener: %+v, was %+v", l, was)
			}
		}
		if now := k.names(); !slices.Equal(now, stored) {
			t.Errorf("stored: %v, were %v", now, stored)
		}
		if h := b.client(t).list().Holders; len(h) != 1 || h[0].Grant != first.Grant || h[0].PID != os.Getpid() {
			t.Errorf("holders: %+v", h)
		}
		if conn, err := net.Dial("unix", path); err != nil {
			t.Error(err)
		} else {
			_ = conn.Close()
		}
	}
	// Ids go on, and a listener that was bound at run time is not the configuration's.
	c = b.client(t)
	c.send(getMore(protocol.GetParameters{Names: []string{"log"}}))
	if g, _ := c.got(); g.Grant <= first.Grant {
		t.Errorf("the next id is %d", g.Grant)
	}
	if _, err := b.Reload(nil, server.ReloadOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range b.Listeners() {
		names = append(names, l.Name)
	}
	if !slices.Equal(names, []string{"pipe", "put", "run"}) {
		t.Errorf("without a configuration there are %v", names)
	}
	if now := k.names(); len(now) != 5 { // control socket, journal, three listeners
		t.Errorf("stored: %v", now)
	}
}

// TestRestoreDead: the grant of a process that has ended meanwhile is not restored.
func TestRestoreDead(t *testing.T) {
	fdtest.CheckLeaks(t)
	k := newKeeping(t)
	b, _ := k.start("web=127.0.0.1:0,max=1")
	w := b.spawn(t)
	if err := w.call(get("web")); err != nil {
		t.Fatal(err)
	}
	b.held(t, "web", 1, 0)
	if err := b.stop(); !errors.Is(err, server.ErrClosed) {
		t.Fatal(err)
	}
	w.kill()
	b, took := k.start("web=127.0.0.1:0,max=1")
	if took.Grants != 0 || b.listener(t, "web").Holders != 0 {
		t.Errorf("took over %d grants; holders: %d", took.Grants, b.listener(t, "web").Holders)
	}
}

// TestReclaim: the grant of a connection is reserved for the process that had it, with its place.
func TestReclaim(t *testing.T) {
	fdtest.CheckLeaks(t)
	k := newKeeping(t)
	b, _ := k.start("web=127.0.0.1:0,max=1")
	c := b.client(t)
	c.send(getMore(protocol.GetParameters{Names: []string{"web"}, DrainSignal: "USR1"}))
	was, _ := c.got()
	if err := b.stop(); !errors.Is(err, server.ErrClosed) {
		t.Fatal(err)
	}
	b, took := k.start("web=127.0.0.1:0,max=1")
	if took.Grants != 1 {
		t.Fatalf("took over %+v", took)
	}
	c = b.client(t)
	for _, p := range []protocol.GetParameters{
		{Names: []string{"web"}},
		{Names: []string{"web"}, Resume: was.Grant + 1},
	} {
		c.send(getMore(p))
		if err := c.refused(); !errors.Is(err, protocol.ErrFull) {
			t.Errorf("%+v: %v", p, err)
		}
	}
	c.send(getOnce(protocol.GetParameters{Names: []string{"web"}, Resume: was.Grant})) // is for connections
	if err := c.refused(); !errors.Is(err, protocol.ErrFull) {
		t.Errorf("without more: %v", err)
	}
	c.send(getMore(protocol.GetParameters{Names: []string{"web"}, Resume: was.Grant}))
	now, fds := c.got()
	if now.Grant != was.Grant || len(fds) != 1 {
		t.Errorf("grant %d, was %d; %d descriptors", now.Grant, was.Grant, len(fds))
	}
	b.held(t, "web", 1, 0)
	c.close() // and now it ends with its connection again
	b.held(t, "web", 0, 0)
}

// TestReclaimDrained: a client that was asked to leave while it was away hears of it.
func TestReclaimDrained(t *testing.T) {
	fdtest.CheckLeaks(t)
	k := newKeeping(t)
	b, _ := k.start("web=127.0.0.1:0")
	c := b.client(t)
	c.send(getMore(protocol.GetParameters{Names: []string{"web"}}))
	was, _ := c.got()
	if err := b.stop(); !errors.Is(err, server.ErrClosed) {
		t.Fatal(err)
	}
	b, _ = k.start("web=127.0.0.1:0")
	o := b.client(t)
	if err := o.call(protocol.MethodDrain, protocol.DrainParameters{Names: []string{"web"}}, nil); err != nil {
		t.Fatal(err)
	}
	c = b.client(t)
	c.send(getMore(protocol.GetParameters{Names: []string{"web"}, Resume: was.Grant}))
	if now, _ := c.got(); now.Grant != was.Grant {
		t.Errorf("grant %d, was %d", now.Grant, was.Grant)
	}
	if now, _ := c.got(); now.Event != protocol.EventDrain {
		t.Errorf("told %+v", now)
	}
}

// TestJournalDamaged: without a journal that can be read, sockets are recognized by their addresses.
func TestJournalDamaged(t *testing.T) {
	for name, spoil := range map[string]func(fd int) error{
		"garbage": func(fd int) error { _, err := unix.Pwrite(fd, []byte("garbage!"), 0); return err },
		"damaged": func(fd int) error { _, err := unix.Pwrite(fd, []byte("garbage!"), 64); return err },
		"cut":     func(fd int) error { return unix.Ftruncate(fd, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			k := newKeeping(t)
			fd, address := listening(t) // to know a port that is free
			_ = fd.Close()
			config := []string{"web=" + address, "app=unix://" + fdtest.SocketDir(t) + "/s"}
			b, _ := k.start(config...)
			cookies := b.cookies()
			b.bind(t, "run=127.0.0.1:0")
			if err := b.stop(); !errors.Is(err, server.ErrClosed) {
				t.Fatal(err)
			}
			if err := k.journal().Control(func(n uintptr) {
				if err := spoil(int(n)); err != nil {
					t.Error(err)
				}
			}); err != nil {
				t.Fatal(err)
			}
			b, _ = k.start(config...)
			if now := b.cookies(); !maps.Equal(now, cookies) {
				t.Errorf("sockets: %v, were %v", now, cookies)
			}
			if now := k.names(); len(now) != 4 { // control socket, journal, two listeners
				t.Errorf("stored: %v", now)
			}
			k.journal()
			b.client(t).alive()
		})
	}
}

// TestRestorePath: a Unix socket whose path was removed gets it back from the second link of its file.
// Without that it is bound anew.
func TestRestorePath(t *testing.T) {
	for _, spare := range []bool{true, false} {
		t.Run(fmt.Sprintf("spare %v", spare), func(t *testing.T) { testRestorePath(t, spare) })
	}
}

func testRestorePath(t *testing.T, spare bool) {
	fdtest.CheckLeaks(t)
	k := newKeeping(t)
	dir := fdtest.SocketDir(t)
	path := dir + "/s"
	b, _ := k.start("app=unix://" + path)
	was := b.listener(t, "app").Cookie
	if err := b.stop(); !errors.Is(err, server.ErrClosed) {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if !spare {
		if err := os.Remove(dir + "/.s.fdbroker"); err != nil {
			t.Fatal(err)
		}
	}
	b, _ = k.start("app=unix://" + path)
	if now := b.listener(t, "app").Cookie; (now == was) != spare {
		t.Errorf("socket %d, was %d", now, was)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if now := k.names(); len(now) != 3 {
		t.Errorf("stored: %v", now)
	}
}

// watchedStore records the listeners of each journal that it is given.
type watchedStore struct {
	*keeping
	listeners []int
}

func (w *watchedStore) Keep(name string, fd *scmrights.FD) error {
	if strings.HasPrefix(name, "@state") {
		dup, err := fd.Dup()
		if err != nil {
			return err
		}
		j, was, err := journal.Open(dup)
		if err != nil {
			return err
		}
		j.Close()
		w.listeners = append(w.listeners, len(was.Listeners))
	}
	return w.keeping.Keep(name, fd)
}

// TestNewJournalIsComplete: a journal that takes the place of another one is stored once it says all that the
// other one did. So a broker that ends meanwhile has lost nothing.
func TestNewJournalIsComplete(t *testing.T) {
	fdtest.CheckLeaks(t)
	k := newKeeping(t)
	b, _ := k.start()
	b.bind(t, "one=127.0.0.1:0", "two=127.0.0.1:0")
	_ = b.stop()
	if err := k.journal().Control(func(n uintptr) {
		log := make([]byte, 4096)
		_, _ = unix.Pread(int(n), log, 0)
		if _, err := unix.Pwrite(int(n), []byte("x"), int64(bytes.Index(log, []byte("two=")))); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	w := &watchedStore{keeping: k}
	s, err := server.New(server.Config{Store: w, Outlived: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	took, err := s.Restore(k.passed())
	if err != nil {
		t.Fatal(err)
	}
	_ = took.Control.FD.Close()
	if took.Listeners != 1 || !slices.Equal(w.listeners, []int{1}) {
		t.Errorf("restored %d listeners, and stored journals with %v", took.Listeners, w.listeners)
	}
}
