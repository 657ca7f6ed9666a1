package registry

import (
	"errors"
	"testing"

	"github.com/fdbroker/fdbroker/broker/server/journal"
	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// TestMoreLeft: a process that gets a socket after WouldLeave is not left on it by a change that was decided before.
func TestMoreLeft(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := newBooks(t)
	b.bind("web=127.0.0.1:0")
	left := b.WouldLeave("web")
	if err := b.getUnseen("web", nil); err != nil {
		t.Fatal(err)
	}
	names := []string{"web"}
	for _, change := range []Change{
		{Remove: names, Renew: names, Left: map[string]Left{"web": left}},
		{Remove: names, Left: map[string]Left{"web": left}},
	} {
		if removed, err := b.Apply(change); !errors.Is(err, ErrMoreLeft) || removed != nil {
			t.Errorf("removed %v, %v", removed, err)
		}
	}
	if _, bound := b.Lookup("web"); !bound || len(b.Stale()) > 0 {
		t.Error("something has changed")
	}
	if err := b.checkLeft(map[string]Left{"web": b.WouldLeave("web"), "gone": {}}); err != nil {
		t.Error(err)
	}
}

// TestStaleWhileStopping: an old socket that the last process leaves while the broker is stopping is left to the next
// broker, together with the grants, which stay in the journal.
func TestStaleWhileStopping(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := newBooks(t)
	b.bind("web=127.0.0.1:0")
	web, _ := b.Lookup("web")
	names := []string{"web"}
	if _, err := b.Apply(Change{Remove: names, Renew: names}); err != nil {
		t.Fatal(err)
	}
	b.Stop(journal.Upgrading, 0, func() {})
	if b.DropStale(web.Socket) || len(b.Stale()) != 1 || b.saved().Listeners[web.Token] == nil {
		t.Error("it was dropped")
	}
}
