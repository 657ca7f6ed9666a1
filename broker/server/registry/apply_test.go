package registry

import (
	"errors"
	"reflect"
	"slices"
	"sync"
	"testing"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// TestApplyNothing: if one part of a change is refused, none of it happens.
func TestApplyNothing(t *testing.T) {
	for name, spoil := range map[string]func(*books) (remove []string, want error){
		"unknown name": func(*books) ([]string, error) { return []string{"a", "none"}, protocol.ErrUnknownName },
		"unknown first": func(*books) ([]string, error) {
			return []string{"none", "a"}, protocol.ErrUnknownName
		},
		"stopped": func(b *books) ([]string, error) {
			b.Freeze()
			return []string{"a"}, ErrClosed
		},
	} {
		t.Run(name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			b := newBooks(t)
			b.bind("a=127.0.0.1:0", "b=127.0.0.1:0", "c=127.0.0.1:0")
			if _, err := b.Apply(Change{Pending: []string{"old"}}); err != nil {
				t.Fatal(err)
			}
			g := b.get(user(root), 0, "a", "b")
			waiting := &Request{Names: []string{"new"}, More: true, Caller: user(root), Link: new(link)}
			if b.Ask(waiting, true) {
				t.Fatal("a request for what is not bound is decided")
			}
			remove, want := spoil(b)
			b.reported()
			books, journal, watched, modes := b.Listeners(), b.saved(), slices.Clone(b.health.watched), b.health.modes
			removed, err := b.Apply(Change{
				Remove: remove, Add: []Listener{{Socket: open(t, "new=127.0.0.1:0"), Token: b.NewToken()}},
				Own: []string{"b"}, Altered: []string{"c"}, Pending: []string{"later"}, Expire: []string{"old"},
			})
			if !errors.Is(err, want) || removed != nil {
				t.Errorf("got %v %v, want %v", removed, err, want)
			}
			if e, ok := errors.AsType[*protocol.UnknownNameError](err); ok && (e.Name != "none" || !slices.Equal(e.Names, []string{"a", "b", "c"})) {
				t.Errorf("got %+v", e)
			}
			if now := b.Listeners(); !slices.Equal(now, books) {
				t.Errorf("listeners: %+v, were %+v", now, books)
			}
			if now := b.saved(); !reflect.DeepEqual(now, journal) {
				t.Errorf("journal: %+v, was %+v", now, journal)
			}
			if !slices.Equal(b.health.watched, watched) || b.health.modes != modes {
				t.Errorf("watched: %v, were %v; %d modes set", b.health.watched, watched, b.health.modes-modes)
			}
			if !b.has(g, "a", "b") || b.Decided(waiting) || !b.pending["old"] || b.pending["later"] {
				t.Errorf("grant ended %t, waiting request decided %t, pending %v", g.ended, b.Decided(waiting), b.pending)
			}
			if told := b.reported(); len(told) > 0 {
				t.Errorf("reported: %q", told)
			}
			b.Cancel(waiting)
		})
	}
}

// TestApply: a change happens in one step, and other callers see nothing in between.
func TestApply(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := newBooks(t)
	b.bind("a=127.0.0.1:0", "b=127.0.0.1:0", "c=127.0.0.1:0,blocking")
	if _, err := b.Apply(Change{Pending: []string{"new", "old"}}); err != nil {
		t.Fatal(err)
	}
	both, one := b.get(user(root), 0, "a", "b"), b.get(user(root), 0, "a")
	waiting := &Request{Names: []string{"new"}, More: true, Caller: user(root), Link: new(link)}
	b.Ask(waiting, true)
	b.reported()
	was := b.listeners["a"]
	sock := open(t, "new=127.0.0.1:0")
	c := Change{
		Remove: []string{"a", "a"}, Add: []Listener{{Socket: sock, Token: b.NewToken(), Configured: true}},
		Own: []string{"b"}, Altered: []string{"c"}, Pending: []string{"later"}, Expire: []string{"old"},
	}
	removed, err := b.Apply(c)
	if err != nil || len(removed) != 1 || removed[0].Socket != was.Socket || removed[0].Token != was.Token {
		t.Errorf("removed %+v, %v", removed, err)
	}
	if now := b.names(); !slices.Equal(now, []string{"b", "c", "new"}) {
		t.Errorf("listeners: %v", now)
	}
	for name, configured := range map[string]bool{"b": true, "c": false, "new": true} {
		l, _ := b.Lookup(name)
		if saved := b.saved().Listeners[l.Token]; l.Configured != configured || saved == nil || saved.Configured != configured {
			t.Errorf("%s is configured: %t, and in the journal %+v", name, l.Configured, saved)
		}
	}
	if saved := b.saved().Listeners[was.Token]; saved != nil {
		t.Errorf("the journal still has %+v", saved)
	}
	if slices.Contains(b.health.watched, was.Socket) || !slices.Contains(b.health.watched, sock) {
		t.Errorf("watched: %v", b.health.watched)
	}
	if !b.has(both, "b") || !one.ended {
		t.Errorf("a grant of two has %v, a grant of one ended is %t", both.names(), one.ended)
	}
	if event := b.TakeEvent(one); event != protocol.EventUnbound {
		t.Errorf("its client is told %q", event)
	}
	if g, _, err := waiting.Result(); !b.Decided(waiting) || err != nil || !b.has(g, "new") {
		t.Errorf("the request that waits for the new listener: %v", err)
	}
	if b.pending["new"] || b.pending["old"] || !b.pending["later"] {
		t.Errorf("pending: %v", b.pending)
	}
	_ = was.Socket.Close()
}

// TestApplyIsOneStep: a listener is replaced under readers that must always see exactly one.
func TestApplyIsOneStep(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := newBooks(t)
	b.bind("x=127.0.0.1:0")
	sockets := []*socket.Socket{open(t, "x=127.0.0.1:0"), open(t, "y=127.0.0.1:0")}
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if n := len(b.Listeners()); n != 1 {
					t.Errorf("%d listeners", n)
					return
				}
				if shots, _ := b.List(nil); len(shots) != 1 {
					t.Errorf("%d listeners in a list", len(shots))
					return
				}
			}
		})
	}
	for i := range 500 {
		next := sockets[(i+1)%2]
		_, err := b.Apply(Change{Remove: b.names(), Add: []Listener{{Socket: next, Token: b.NewToken()}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	close(done)
	readers.Wait()
}
