package bind

import (
	"bytes"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// TestStoreRoom: who binds a listener for which the store has no room can learn it, the log says it, and it is stored as
// soon as there is room.
func TestStoreRoom(t *testing.T) {
	fdtest.CheckLeaks(t)
	s := newStore(t)
	var log bytes.Buffer
	b := newBinder(t, s)
	room := 4 // the journal, the control socket, and two listeners
	b.cfg.StoreRoom, b.cfg.Log = func() StoreRoom { return StoreRoom{room, "more"} }, zerolog.New(&log)
	if _, err := b.Restore(nil); err != nil {
		t.Fatal(err)
	}
	specs := func(names ...string) (all []spec.Spec) {
		for _, name := range names {
			sp, err := spec.Parse(name + "=127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, sp)
		}
		return all
	}
	check := func(when, lacking string, stored int) {
		t.Helper()
		var lack []string
		for _, l := range b.cfg.Registry.Listeners() {
			why := b.Unstored(l.Socket)
			if why != "" {
				lack = append(lack, l.Socket.Name())
			}
			if has := s.kept[storedSocket(l.Token)] != nil; has != (why == "") {
				t.Errorf("%s: %s is stored: %t, and the reason why not %q", when, l.Socket.Name(), has, why)
			}
		}
		if got := strings.Join(lack, " "); got != lacking || len(s.names()) != stored {
			t.Errorf("%s: %q lack, stored are %v", when, got, s.names())
		}
	}
	bind := func(names ...string) {
		t.Helper()
		if err := b.Bind(specs(names...)...); err != nil {
			t.Fatal(err)
		}
	}
	unbind := func(names ...string) {
		t.Helper()
		if err := b.Unbind(names...); err != nil {
			t.Fatal(err)
		}
	}
	bind("a")
	check("with room", "", 2)
	if log.Len() > 0 {
		t.Errorf("logged: %s", &log)
	}
	bind("b", "c", "d")
	check("full", "c d", 3)
	if n := strings.Count(log.String(), "would not outlive the broker"); n != 1 || !strings.Contains(log.String(), `["c","d"]`) {
		t.Errorf("logged: %s", &log)
	}
	if err := b.Bind(append(specs("e"), specs("a")[0], spec.Spec{Name: "bad"})...); err == nil {
		t.Error("a bad spec is bound")
	}
	check("after a failure", "c d", 3)
	unbind("c")
	check("one that was not stored is unbound", "d", 3)
	unbind("a")
	check("one that was stored is unbound", "", 3)
	bind("f")
	check("full again", "f", 3)
	room++
	bind("g")
	check("more room", "f", 4)
	unbind("b", "d", "f", "g")
	check("without listeners", "", 1)
	if strings.Contains(log.String(), "taken out of the store") {
		t.Errorf("logged: %s", &log)
	}
}

// TestStoreRoomUpgraded: a broker that takes over in the same process gets what the store lacks as well, and knows that.
func TestStoreRoomUpgraded(t *testing.T) {
	fdtest.CheckLeaks(t)
	s := newStore(t)
	room := func() StoreRoom { return StoreRoom{4, "more"} }
	b := newBinder(t, s)
	b.cfg.StoreRoom = room
	if _, err := b.Restore(nil); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"a=127.0.0.1:0", "b=127.0.0.1:0", "c=127.0.0.1:0"} {
		sp, err := spec.Parse(text)
		if err == nil {
			err = b.Bind(sp)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var passed []Passed
	for _, p := range b.Descriptors() {
		dup, err := p.FD.Dup()
		if err != nil {
			t.Fatal(err)
		}
		passed = append(passed, Passed{p.Name, dup})
	}
	next := newBinder(t, s)
	next.cfg.StoreRoom = room
	if _, err := next.Restore(passed); err != nil {
		t.Fatal(err)
	}
	next.Ready()
	c, _ := next.cfg.Registry.Lookup("c")
	if next.Unstored(c.Socket) == "" || s.kept[storedSocket(c.Token)] != nil {
		t.Errorf("c is stored: %v", s.names())
	}
	if err := next.Unbind("a"); err != nil {
		t.Fatal(err)
	}
	if next.Unstored(c.Socket) != "" || s.kept[storedSocket(c.Token)] == nil {
		t.Errorf("c is not stored: %v", s.names())
	}
}
