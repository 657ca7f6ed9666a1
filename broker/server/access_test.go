package server_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// Users and groups of the tests.
const (
	alice, bob, carol = 61001, 61002, 61003
	staff             = 61010
)

func TestAllow(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "none=127.0.0.1:0",
		fmt.Sprintf("uid=127.0.0.1:0,allow=uid:%d", alice), fmt.Sprintf("gid=127.0.0.1:0,allow=gid:%d", staff),
		fmt.Sprintf("two=127.0.0.1:0,allow=uid:%d+gid:%d", alice, staff), "any=127.0.0.1:0,allow=any")
	names := []string{"none", "uid", "gid", "two", "any"}
	for _, c := range []struct {
		user string
		ids  []uint32
		want string
	}{
		{"root", []uint32{0, 0}, "none uid gid two any"},
		{"by uid", []uint32{alice, alice}, "uid two any"},
		{"by primary group", []uint32{bob, staff}, "gid two any"},
		{"by supplementary group", []uint32{bob, bob, 61020, staff, 61021}, "gid two any"},
		{"a uid that is another's gid", []uint32{staff, staff + 1}, "any"},
		{"stranger", []uint32{carol, carol}, "any"},
		{"the overflow user", []uint32{65534, 65534}, "any"},
	} {
		t.Run(c.user, func(t *testing.T) {
			w := b.spawn(t, c.ids...)
			var may []string
			for _, name := range names {
				err := w.call(get(name))
				if err == nil {
					may = append(may, name)
					continue
				}
				// As for a name that is not bound: what is hidden by List is not told by Get either.
				denied, ok := errors.AsType[*protocol.UnknownNameError](err)
				if !ok || denied.Name != name || denied.UID != c.ids[0] || !errors.Is(err, protocol.ErrDenied) {
					t.Errorf("%s: got %v", name, err)
				}
				unbound := w.call(get("unbound"))
				if text := strings.ReplaceAll(unbound.Error(), "unbound", name); text != err.Error() {
					t.Errorf("%s: got %q, and of a name that is not bound %q", name, err, text)
				}
			}
			if got := strings.Join(may, " "); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			checkSeen(t, w, c.want)
		})
	}
}

// checkSeen checks that w sees just those listeners.
func checkSeen(t *testing.T, w *worker, want string) {
	t.Helper()
	w.ask(method(protocol.MethodList, nil))
	r, _ := w.answer()
	var list protocol.ListReply
	if err := protocol.DecodeParameters(r.Parameters, &list); err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, l := range list.Listeners {
		seen[l.Name] = true
	}
	for name := range strings.FieldsSeq(want) {
		if !seen[name] {
			t.Errorf("List lacks %s", name)
		}
	}
	if len(seen) != len(strings.Fields(want)) {
		t.Errorf("List has %v", seen)
	}
	for _, h := range list.Holders {
		for _, name := range h.Names {
			if !seen[name] {
				t.Errorf("List shows a holder of %s", name)
			}
		}
	}
	err := w.call(get("wrong"))
	if unknown, ok := errors.AsType[*protocol.UnknownNameError](err); !ok || len(unknown.Names) != len(seen) {
		t.Errorf("an unknown name tells of %v", err)
	}
}

func TestBindAndUnbindAreForTheOwner(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0,allow=any")
	w := b.spawn(t, alice, alice)
	for _, k := range []call{
		method(protocol.MethodBind, protocol.BindParameters{Listeners: []string{"b=127.0.0.1:0"}}),
		method(protocol.MethodUnbind, protocol.UnbindParameters{Names: []string{"a"}}),
	} {
		err := w.call(k)
		if _, ok := errors.AsType[*protocol.PermissionDeniedError](err); !ok || !errors.Is(err, protocol.ErrDenied) {
			t.Errorf("%s: %v", k.Method, err)
		}
	}
	if n := len(b.Listeners()); n != 1 {
		t.Errorf("%d listeners", n)
	}
}

// The broker's own user may do all that root may, except if its uid is 65534: the kernel shows that for
// every user it does not know.
func TestOwnUser(t *testing.T) {
	for _, c := range []struct {
		uid uint32
		own bool
	}{{alice, true}, {65534, false}} {
		t.Run(fmt.Sprint(c.uid), func(t *testing.T) {
			fdtest.CheckLeaks(t)
			dir := fdtest.SocketDir(t)
			b := &broker{path: filepath.Join(dir, "c")}
			cmd := fdtest.Helper(t, "broker", b.path, `["a=127.0.0.1:0"]`, "0")
			asUser(t, cmd, c.uid, c.uid)
			give(t, dir, c.uid)
			stop := startHelper(t, cmd)
			w := b.spawn(t, c.uid, c.uid)
			if err := w.call(get("a")); (err == nil) != c.own {
				t.Errorf("Get: %v", err)
			}
			err := w.call(method(protocol.MethodBind, protocol.BindParameters{Listeners: []string{"b=127.0.0.1:0"}}))
			if (err == nil) != c.own {
				t.Errorf("Bind: %v", err)
			}
			w.kill()
			stop()
		})
	}
}

func TestLimitPerUser(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{MaxClientsPerUID: 2, MaxClients: 8}, "a=127.0.0.1:0,allow=any")
	one, two, three, other := b.spawn(t, alice, alice), b.spawn(t, alice, alice), b.spawn(t, alice, alice), b.spawn(t, bob, bob)
	info := method(protocol.MethodGetInfo, nil)
	for _, w := range []*worker{one, two, other} {
		if err := w.call(info); err != nil {
			t.Fatal(err)
		}
	}
	if err := three.call(info); !errors.Is(err, protocol.ErrLimitReached) {
		t.Errorf("the third connection: %v", err)
	}
	for range 4 { // root has no such limit
		b.client(t).alive()
	}
	one.kill()
	fdtest.Eventually(t, "the place is free", func() bool {
		w := b.spawn(t, alice, alice)
		defer w.kill()
		return w.call(info) == nil
	})
}

// However many clients other users have, there is room for root.
func TestClientsOfOthers(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{MaxClients: 16}, "a=127.0.0.1:0,allow=any")
	info := method(protocol.MethodGetInfo, nil)
	for range 15 {
		if err := b.spawn(t, alice, alice).call(info); err != nil {
			t.Fatal(err)
		}
	}
	if l, ok := errors.AsType[*protocol.LimitError](b.spawn(t, bob, bob).call(info)); !ok || l.Limit != "clients" || l.Max != 15 {
		t.Errorf("the last place: %+v", l)
	}
	b.client(t).alive()
}

// The broker has a descriptor open for each process that holds a listener, and one user may not take them
// all. Connections do not count, because they have their own limit.
func TestGrantsPerUser(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{MaxGrantsPerUID: 2}, "a=127.0.0.1:0,allow=any", "b=127.0.0.1:0,allow=any")
	one, two, three, other := b.spawn(t, alice, alice), b.spawn(t, alice, alice), b.spawn(t, alice, alice), b.spawn(t, bob, bob)
	for _, w := range []*worker{one, two, other, one, b.spawn(t), b.spawn(t), b.spawn(t)} { // root has no limit
		if err := w.call(get("a")); err != nil {
			t.Fatal(err)
		}
	}
	if l, ok := errors.AsType[*protocol.LimitError](three.call(get("a"))); !ok || l.Limit != "grants of one user" || l.Max != 2 {
		t.Errorf("the third process: %+v", l)
	}
	if err := errors.Join(one.call(get("b")), three.call(getMore(protocol.GetParameters{Names: []string{"a"}}))); err != nil {
		t.Error(err)
	}
	for range 5 {
		one.kill()
		one = b.spawn(t, alice, alice)
		fdtest.Eventually(t, "there is room for another", func() bool { return one.call(get("a")) == nil })
	}
	if err := b.spawn(t, alice, alice).call(get("a")); !errors.Is(err, protocol.ErrLimitReached) {
		t.Errorf("got %v", err)
	}
	if err := b.Unbind("a", "b"); err != nil {
		t.Fatal(err)
	}
	b.bind(t, "a=127.0.0.1:0,allow=any")
	for _, w := range []*worker{one, two} {
		if err := w.call(get("a")); err != nil {
			t.Error(err)
		}
	}
}

// TestHiddenIsUnknown: every method answers of a name that is hidden from the caller as of one that is not bound.
func TestHiddenIsUnknown(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "hidden=127.0.0.1:0", "seen=127.0.0.1:0,allow=any")
	w := b.spawn(t, alice, alice)
	for what, parameters := range map[string]func(name string) any{
		protocol.MethodGet:    func(name string) any { return protocol.GetParameters{Names: []string{name}} },
		protocol.MethodDrain:  func(name string) any { return protocol.DrainParameters{Names: []string{name}} },
		protocol.MethodAttach: func(name string) any { return protocol.AttachParameters{Name: name} },
	} {
		var texts [2]string
		for i, name := range []string{"hidden", "nobody"} {
			err := w.call(method(what, parameters(name)))
			unknown, ok := errors.AsType[*protocol.UnknownNameError](err)
			if !ok {
				t.Fatalf("%s: got %v", what, err)
			}
			texts[i] = fmt.Sprintf("%v %d", unknown.Names, unknown.UID)
		}
		if texts[0] != texts[1] {
			t.Errorf("%s: %s of a name that is hidden, %s of one that is not bound", what, texts[0], texts[1])
		}
	}
}

// TestWaitForHidden: a client that waits for a hidden name waits as for one that is not bound.
func TestWaitForHidden(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "adm=127.0.0.1:0")
	w := b.spawn(t, alice, alice)
	w.ask(getOnce(protocol.GetParameters{Names: []string{"adm"}, Wait: true}))
	b.held(t, "adm", 0, 1)
	if err := b.Unbind("adm"); err != nil {
		t.Fatal(err)
	}
	b.bind(t, "adm=127.0.0.1:0,allow=any")
	if r, fds := w.answer(); r.Err != nil || fds != 1 {
		t.Errorf("got %v, %d descriptors", r.Err, fds)
	}
}
