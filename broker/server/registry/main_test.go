package registry

import (
	"slices"
	"sync"
	"testing"

	"github.com/fdbroker/fdbroker/broker/server/journal"
	"github.com/fdbroker/fdbroker/broker/server/peer"
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	fdtest.Main(m, map[string]func([]string) int{"sleep": sleepHelper})
}

// sleepHelper lives until its standard input ends.
func sleepHelper([]string) int {
	_, _ = unix.Read(0, make([]byte, 1))
	return 0
}

// books is a registry with its reports.
type books struct {
	*Registry
	t      testing.TB
	health *observer

	mu     sync.Mutex
	events []Event
}

// observer records which sockets the registry has watched.
type observer struct {
	watched []*socket.Socket
	modes   int // calls of SetMode
}

func (o *observer) Watch(s *socket.Socket, _ bool) { o.watched = append(o.watched, s) }
func (o *observer) Unwatch(s *socket.Socket)       { o.watched = without(o.watched, s) }
func (o *observer) Held(*socket.Socket)            {}
func (o *observer) Freed(*socket.Socket)           {}
func (o *observer) SetMode(s *socket.Socket, blocking bool) (bool, error) {
	o.modes++
	return false, s.SetBlocking(blocking)
}

// newBooks returns a registry that writes a new journal. The test's end closes both.
func newBooks(t testing.TB) *books {
	t.Helper()
	exits, err := peer.NewExitWatcher()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(exits.Close)
	b := &books{t: t, health: new(observer)}
	b.Registry = New(Config{Exits: exits, Health: b.health, MaxGrantsPerUID: 100, GrantEvents: -1, Report: func(e Event) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.events = append(b.events, e)
	}})
	j, err := journal.New()
	if err != nil {
		t.Fatal(err)
	}
	b.Continue(j, journal.Contents{})
	t.Cleanup(func() {
		for _, s := range b.Close() {
			_ = s.Close()
		}
	})
	return b
}

// reported returns the kinds of the events so far, and forgets them.
func (b *books) reported() (kinds []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.events {
		kinds = append(kinds, e.What)
	}
	b.events = nil
	return kinds
}

// open opens a socket, which the test's end closes.
func open(t testing.TB, text string) *socket.Socket {
	t.Helper()
	s, err := spec.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	sock, err := socket.Open(s, socket.OpenConfig{})
	if err != nil {
		t.Fatal(err)
	}
	sock.Commit()
	t.Cleanup(func() { _ = sock.Close() })
	return sock
}

// bind adds listeners that belong to no configuration.
func (b *books) bind(texts ...string) {
	b.t.Helper()
	var c Change
	for _, text := range texts {
		c.Add = append(c.Add, Listener{Socket: open(b.t, text), Token: b.NewToken()})
	}
	if _, err := b.Apply(c); err != nil {
		b.t.Fatal(err)
	}
}

// names returns the names of the listeners.
func (b *books) names() (names []string) {
	for _, l := range b.Listeners() {
		names = append(names, l.Socket.Name())
	}
	return names
}

// saved returns the present contents of the journal.
func (b *books) saved() (c journal.Contents) {
	b.t.Helper()
	b.Journal(func(j *journal.Journal) {
		fd, err := j.File().Dup()
		if err != nil {
			b.t.Fatal(err)
		}
		again, contents, err := journal.Open(fd)
		if err != nil {
			b.t.Fatal(err)
		}
		again.Close()
		c = contents
	})
	return c
}

// link is a connection that counts how often it was woken.
type link struct {
	mu   sync.Mutex
	woke int
}

func (l *link) Wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.woke++
}

func (l *link) Gone() bool { return false }

func (l *link) woken() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.woke
}

// Users of the tests. The broker's is none of them.
const (
	root  = 0
	alice = 1001
	bob   = 1002
)

// user returns a caller of that uid, whose pid is not visible.
func user(uid uint32) *Caller {
	return &Caller{Peer: peer.Credentials{UID: uid, GID: uid}, Privileged: uid == root, groups: []uint32{uid}}
}

// self returns a caller that is this process, by a connection of its own.
func self(t testing.TB) *Caller {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	raw, other := scmrights.Nonblocking{FD: scmrights.NewFD(pair[0])}, scmrights.NewFD(pair[1])
	t.Cleanup(func() { scmrights.CloseAll([]*scmrights.FD{raw.FD, other}) })
	p, err := peer.Of(raw)
	if err != nil {
		t.Fatal(err)
	}
	return &Caller{Peer: p, conn: raw, Privileged: true}
}

// get asks for listeners by a connection, with events, and returns the grant.
func (b *books) get(c *Caller, generation int64, names ...string) *Grant {
	b.t.Helper()
	q := &Request{Names: names, Generation: generation, More: true, Caller: c, Link: new(link)}
	if !b.Ask(q, false) {
		b.t.Fatal("a request that may not wait is not decided")
	}
	g, _, err := q.Result()
	if err != nil {
		b.t.Fatal(err)
	}
	return g
}

func (b *books) has(g *Grant, names ...string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.Registry.mu.Lock()
	defer b.Registry.mu.Unlock()
	return !g.ended && slices.Equal(g.names(), names)
}
