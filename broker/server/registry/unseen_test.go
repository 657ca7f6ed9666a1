package registry

import (
	"errors"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker/server/journal"
	"github.com/fdbroker/fdbroker/broker/server/peer"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// getUnseen asks as a process in another pid namespace does, without "more", and disconnects.
func (b *books) getUnseen(name string, blocking *bool) error {
	b.t.Helper()
	c := user(root)
	q := &Request{Names: []string{name}, Blocking: blocking, Caller: c, Link: new(link)}
	if !b.Ask(q, false) {
		b.t.Fatal("a request that may not wait is not decided")
	}
	_, _, err := q.Result()
	b.EndConnection(c, EndDisconnected)
	return err
}

// mode is how O_NONBLOCK of a listener is, and how many processes may use it unseen.
func (b *books) mode(name string) (blocking bool, unseen int) {
	b.t.Helper()
	shots := b.Snapshots([]string{name})
	blocking, err := shots[0].Socket.Blocking()
	if err != nil {
		b.t.Fatal(err)
	}
	if shots[0].InUse() != (shots[0].Holders+shots[0].Unseen > 0) {
		b.t.Errorf("in use: %t, with %+v", shots[0].InUse(), shots[0])
	}
	return blocking, shots[0].Unseen
}

// TestUnseenKeepsMode: that the grant of a process has ended which cannot be followed says nothing about the process.
// Neither its end nor another request nor a broker that takes over changes O_NONBLOCK under it.
func TestUnseenKeepsMode(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := newBooks(t)
	b.bind("web=127.0.0.1:0,max=1")
	if err := b.getUnseen("web", new(true)); err != nil {
		t.Fatal(err)
	}
	check := func(when string, b *books) {
		t.Helper()
		if blocking, unseen := b.mode("web"); !blocking || unseen != 1 {
			t.Errorf("%s: blocking %t, unseen %d", when, blocking, unseen)
		}
	}
	check("after its connection", b)
	conflict, ok := errors.AsType[*protocol.ConflictError](b.getUnseen("web", new(false)))
	if !ok || !conflict.Blocking || conflict.Unseen != 1 {
		t.Errorf("who needs it the other way gets %+v", conflict)
	}
	check("after a refusal", b)
	for _, saved := range b.saved().Listeners {
		next := newBooks(t)
		sock := open(t, saved.Spec)
		_ = sock.SetBlocking(saved.Blocking)
		next.RestoreListener(saved, sock)
		next.RestoreGrants(nil)
		check("restored", next)
		next.EndReserved()
		check("restored, later", next)
	}
	if g := b.get(self(t), 0, "web"); g == nil {
		t.Error("it counts as a holder")
	} else {
		b.End(g, EndDisconnected)
	}
	check("after another holder", b)
	if err := b.getUnseen("web", nil); err != nil {
		t.Error(err)
	}
	if _, unseen := b.mode("web"); unseen != 2 {
		t.Errorf("unseen %d after two", unseen)
	}
}

// TestSeenEnds: ends that say that nobody goes on are no reason to count anybody.
func TestSeenEnds(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := newBooks(t)
	b.bind("web=127.0.0.1:0")
	c := user(root)
	q := &Request{Names: []string{"web"}, Blocking: new(true), Caller: c, Link: new(link)}
	b.Ask(q, false)
	b.Cancel(q) // its reply could not be sent
	b.EndConnection(c, EndDisconnected)
	g := b.get(user(root), 0, "web")
	b.End(g, EndDisconnected) // a client with events keeps its connection
	if blocking, unseen := b.mode("web"); blocking || unseen != 0 {
		t.Errorf("blocking %t, unseen %d", blocking, unseen)
	}
}

// TestRestoreUnfollowed: a grant of the broker before is not taken for ended because its process cannot be looked at.
func TestRestoreUnfollowed(t *testing.T) {
	fdtest.CheckLeaks(t)
	gone := peer.Credentials{PID: 1 << 22} // no process has such a pid
	for _, c := range []struct {
		what          string
		grant         journal.Grant
		unseen, later int
	}{
		{"in another namespace, by a connection that was to end", journal.Grant{}, 1, 1},
		{"in another namespace, by a connection with events", journal.Grant{More: true}, 1, 0},
		{"ended", journal.Grant{Peer: gone}, 0, 0},
	} {
		t.Run(c.what, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			b := newBooks(t)
			const text = "web=127.0.0.1:0"
			b.SkipToken(1)
			sock := open(t, text)
			_ = sock.SetBlocking(true)
			b.RestoreListener(&journal.Listener{Token: 1, Spec: text, Blocking: true}, sock)
			g := c.grant
			g.ID, g.Generation, g.Since, g.Tokens = 5, 5, time.Now(), []uint32{1}
			if n := b.RestoreGrants(map[int64]*journal.Grant{5: &g}); n != 0 {
				t.Errorf("%d are restored", n)
			}
			if blocking, unseen := b.mode("web"); blocking != (c.unseen > 0) || unseen != c.unseen {
				t.Errorf("blocking %t, unseen %d", blocking, unseen)
			}
			if b.Reserved() != (c.later < c.unseen) {
				t.Errorf("reserved %t", b.Reserved())
			}
			b.EndReserved()
			if blocking, unseen := b.mode("web"); blocking != (c.later > 0) || unseen != c.later {
				t.Errorf("later: blocking %t, unseen %d", blocking, unseen)
			}
		})
	}
}
