package registry

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker/server/journal"
	"github.com/fdbroker/fdbroker/broker/server/peer"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

const (
	reservedID = 30
	generation = 20
)

// reserve makes a registry that was restored with one grant of a connection: it is reserved for the process
// of p. It holds a and b, which have one place each.
func reserve(t *testing.T, p peer.Credentials, draining bool) (*books, *Grant) {
	t.Helper()
	b := newBooks(t)
	var tokens []uint32
	for i, text := range []string{"a=127.0.0.1:0,max=1", "b=127.0.0.1:0,max=1", "c=127.0.0.1:0,max=1"} {
		token := uint32(10 + i)
		b.SkipToken(token)
		b.RestoreListener(&journal.Listener{Token: token, Spec: text}, open(t, text))
		if i < 2 {
			tokens = append(tokens, token)
		}
	}
	b.lastID = reservedID
	n := b.RestoreGrants(map[int64]*journal.Grant{reservedID: {
		ID: reservedID, Generation: generation, Since: time.UnixMicro(5), Peer: p, More: true, Draining: draining, Tokens: tokens,
	}})
	if n != 1 || !b.Reserved() {
		t.Fatalf("%d grants are restored, reserved %t", n, b.Reserved())
	}
	b.reported()
	return b, b.grants[reservedID]
}

func reclaim(c *Caller, names ...string) *Request {
	return &Request{Names: names, Reclaim: reservedID, More: true, Caller: c, Link: new(link)}
}

// TestReclaim: the process for which a grant is reserved gets that very grant, with its sockets, and it lasts
// as long as the new connection.
func TestReclaim(t *testing.T) {
	fdtest.CheckLeaks(t)
	c := self(t)
	b, g := reserve(t, c.Peer, false)
	q := reclaim(c, "b", "a")
	if !b.Ask(q, false) {
		t.Fatal("not decided")
	}
	got, sockets, err := q.Result()
	if err != nil || got != g || len(sockets) != 2 || sockets[0] != b.listeners["b"].Socket || sockets[1] != b.listeners["a"].Socket {
		t.Fatalf("got %+v %v, %v", got, sockets, err)
	}
	if b.Reserved() || g.pidfd != nil || g.generation != generation || !g.since.Equal(time.UnixMicro(5)) || !b.has(g, "a", "b") {
		t.Errorf("the grant is %+v", g)
	}
	if q.Link.(*link).woken() > 0 {
		t.Error("its connection was woken, and there is no event")
	}
	b.EndReserved() // it is none of these
	if !b.has(g, "a", "b") {
		t.Error("it has ended with the reserved ones")
	}
	if again := reclaim(c, "a"); !b.Ask(again, false) || !errors.Is(again.err, protocol.ErrFull) {
		t.Errorf("reclaimed again: %v", again.err)
	}
	b.End(g, EndDisconnected)
	if saved := b.saved().Grants; len(saved) > 0 || !g.ended {
		t.Errorf("after its end the journal has %+v", saved)
	}
}

// TestReclaimRefused: no other client gets a reserved grant, and its places stay taken.
func TestReclaimRefused(t *testing.T) {
	own := peer.Credentials{PID: os.Getpid(), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	for name, change := range map[string]func(*Request){
		"another process":    func(q *Request) { q.Caller.Peer.PID = os.Getppid() },
		"another user":       func(q *Request) { q.Caller.Peer.UID++ },
		"another grant":      func(q *Request) { q.Reclaim++ },
		"none":               func(q *Request) { q.Reclaim = 0 },
		"not for connection": func(q *Request) { q.More = false },
	} {
		t.Run(name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			b, g := reserve(t, own, false)
			q := reclaim(self(t), "a", "b")
			change(q)
			if !b.Ask(q, false) || !errors.Is(q.err, protocol.ErrFull) {
				t.Errorf("got %+v, %v", q.grant, q.err)
			}
			if !b.Reserved() || !b.has(g, "a", "b") {
				t.Errorf("the grant is %+v", g)
			}
			if saved := b.saved().Grants[reservedID]; saved == nil || len(saved.Tokens) != 2 {
				t.Errorf("the journal has %+v", saved)
			}
			b.EndReserved()
			if b.Reserved() || !g.ended || len(b.saved().Grants) > 0 {
				t.Errorf("the grant that nobody has reclaimed is %+v", g)
			}
		})
	}
	t.Run("stopping", func(t *testing.T) {
		fdtest.CheckLeaks(t)
		b, g := reserve(t, own, false)
		b.Stop(journal.Stopped, os.Getpid(), func() {})
		q := reclaim(self(t), "a", "b")
		if !b.Ask(q, false) || q.err != ErrStopping {
			t.Errorf("got %+v, %v", q.grant, q.err)
		}
		if !b.has(g, "a", "b") || len(b.saved().Grants) != 1 {
			t.Errorf("the grant is %+v", g)
		}
	})
}

// TestReclaimPart: the process has closed the sockets that it does not name any more, so others may have those places.
func TestReclaimPart(t *testing.T) {
	fdtest.CheckLeaks(t)
	c := self(t)
	b, g := reserve(t, c.Peer, false)
	waiting := &Request{Names: []string{"b"}, More: true, Caller: user(root), Link: new(link)}
	if b.Ask(waiting, true) {
		t.Fatalf("a place that is reserved is given away: %v", waiting.err)
	}
	if q := reclaim(c, "a"); !b.Ask(q, false) || q.err != nil || q.grant != g {
		t.Errorf("got %+v, %v", q.grant, q.err)
	}
	if !b.has(g, "a") {
		t.Errorf("it holds %v", g.names())
	}
	if saved := b.saved().Grants[reservedID]; saved == nil || len(saved.Tokens) != 1 {
		t.Errorf("the journal has %+v", saved)
	}
	if !b.Decided(waiting) || waiting.err != nil || waiting.Link.(*link).woken() == 0 {
		t.Errorf("who waits for the place: %v", waiting.err)
	}
}

// TestReclaimMore: if the process asks for more than it had, it gets a new grant, and the places of the old
// one are free for that.
func TestReclaimMore(t *testing.T) {
	fdtest.CheckLeaks(t)
	c := self(t)
	b, g := reserve(t, c.Peer, false)
	q := reclaim(c, "a", "b", "c")
	if !b.Ask(q, false) || q.err != nil || q.grant == g || len(q.sockets) != 3 {
		t.Fatalf("got %+v, %v", q.grant, q.err)
	}
	if !g.ended || b.Reserved() || !b.has(q.grant, "a", "b", "c") || q.grant.id == reservedID {
		t.Errorf("the old grant is %+v, the new one %+v", g, q.grant)
	}
	if saved := b.saved().Grants; len(saved) != 1 || saved[q.grant.id] == nil {
		t.Errorf("the journal has %+v", saved)
	}
}

// TestReclaimDrained: a client that was asked to leave while it was away is told once it is there again,
// whichever broker has asked.
func TestReclaimDrained(t *testing.T) {
	for _, earlier := range []bool{true, false} {
		fdtest.CheckLeaks(t)
		c := self(t)
		b, g := reserve(t, c.Peer, earlier)
		if !earlier {
			d, err := b.Drain(user(root), new(link), []string{"a"}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if asked, err := b.AskToLeave(d, true); asked.Count != 1 || asked.Failed != 0 || err != nil {
				t.Errorf("%+v, %v", asked, err)
			}
		}
		q := reclaim(c, "a", "b")
		if !b.Ask(q, false) || q.err != nil || q.grant != g || q.Link.(*link).woken() != 1 {
			t.Fatalf("got %+v, %v, woken %d times", q.grant, q.err, q.Link.(*link).woken())
		}
		if event := b.TakeEvent(g); event != protocol.EventDrain || !g.draining {
			t.Errorf("its client is told %q, and it is draining: %t", event, g.draining)
		}
		if event := b.TakeEvent(g); event != "" {
			t.Errorf("its client is told %q, too", event)
		}
	}
}

// TestReclaimOfTheDead: a grant of a process that has ended is not for another one that has its pid.
func TestReclaimOfTheDead(t *testing.T) {
	fdtest.CheckLeaks(t)
	cmd := fdtest.Helper(t, "sleep")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := self(t)
	c.Peer.PID = cmd.Process.Pid
	b, g := reserve(t, c.Peer, false)
	_ = stdin.Close()
	_ = cmd.Wait()
	q := reclaim(c, "a", "b")
	if b.Ask(q, false); q.grant == g {
		t.Fatal("reclaimed")
	}
	if q.err != nil || !g.ended || !b.has(q.grant, "a", "b") {
		t.Errorf("its places are not free: %v", q.err)
	}
	if n := b.RestoreGrants(map[int64]*journal.Grant{40: {ID: 40, Peer: c.Peer, More: true, Tokens: []uint32{12}}}); n != 0 {
		t.Errorf("%d grants of a process that has ended are restored", n)
	}
}
