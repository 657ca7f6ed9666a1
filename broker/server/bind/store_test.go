package bind

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server/journal"
	"github.com/fdbroker/fdbroker/broker/server/peer"
	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

func TestMain(m *testing.M) { fdtest.Main(m, nil) }

// TestTokens: the names of sockets in the store are short, unlike each other and all else that is there, and can
// be read again.
func TestTokens(t *testing.T) {
	names := make(map[string]uint32)
	for _, token := range []uint32{0, 1, 9, 10, 35, 36, 46655, 46656, 1 << 31, 1<<32 - 1} {
		name := storedSocket(token)
		if got, ok := tokenOf(name); !ok || got != token {
			t.Errorf("%s: %d, %t", name, got, ok)
		}
		if other, is := names[name]; is || len(name) > 8 || !IsStored(name) || spec.CheckName(name) == nil {
			t.Errorf("%s of %d: also that of %d: %t", name, token, other, is)
		}
		names[name] = token
	}
	for _, name := range []string{
		storedControl, storedJournal, storedJournal + ".1f", "@store", "@", "@-1", "@+1", "@zz", "@1Z141Z4", "@ 1", "web", "",
	} {
		if token, ok := tokenOf(name); ok {
			t.Errorf("%q is the socket %d", name, token)
		}
	}
}

// store is a [Store] in memory.
type store struct {
	mu   sync.Mutex
	kept map[string]*scmrights.FD
}

func newStore(t testing.TB) *store {
	s := &store{kept: make(map[string]*scmrights.FD)}
	t.Cleanup(func() {
		for _, fd := range s.kept {
			_ = fd.Close()
		}
	})
	return s
}

func (s *store) Keep(name string, fd *scmrights.FD) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	dup, err := fd.Dup()
	if err == nil {
		s.kept[name] = dup
	}
	return err
}

func (s *store) Forget(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	fd := s.kept[name]
	if fd == nil {
		return errors.New("there is no " + name)
	}
	delete(s.kept, name)
	return fd.Close()
}

func (s *store) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.kept))
}

// passed returns duplicates of the descriptors of those names, in the order of names.
func (s *store) passed(t testing.TB, names ...string) (all []Passed) {
	t.Helper()
	for _, name := range names {
		dup, err := s.kept[name].Dup()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, Passed{name, dup})
	}
	return all
}

// keepFile keeps a file with these bytes.
func (s *store) keepFile(t testing.TB, name string, b []byte) {
	t.Helper()
	n, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	s.kept[name] = scmrights.NewFD(n)
	if _, err := unix.Write(n, b); err != nil {
		t.Fatal(err)
	}
}

// oldJournal returns a journal of the layout before the present one, with a record of a listener "old" that was
// bound at run time.
func oldJournal(lastID int64, e journal.Ending) []byte {
	b := make([]byte, 4096)
	copy(b, "bstate2")
	binary.NativeEndian.PutUint64(b[8:], uint64(lastID))
	binary.NativeEndian.PutUint64(b[16:], uint64(e))
	var body []byte
	for _, v := range []uint64{1, 7, 0, 0, 0, 9, 0, 0} { // serial, cookie, dev, ino, fence, token, flags, fences
		body = binary.AppendUvarint(body, v)
	}
	body = append(body, "old=127.0.0.1:0"...)
	crc := crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli))
	binary.NativeEndian.PutUint64(b[64:], 3|uint64(len(body)-1)<<16|uint64(crc)<<32)
	copy(b[72:], body)
	return b
}

// keepJournal keeps a journal of the present layout.
func (s *store) keepJournal(t testing.TB, name string, lastID int64) {
	t.Helper()
	j, err := journal.New()
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	j.SetLastID(lastID)
	if err := s.Keep(name, j.File()); err != nil {
		t.Fatal(err)
	}
}

type noHealth struct{}

func (noHealth) Watch(*socket.Socket, bool) {}
func (noHealth) Unwatch(*socket.Socket)     {}
func (noHealth) Held(*socket.Socket)        {}
func (noHealth) Freed(*socket.Socket)       {}
func (noHealth) SetMode(s *socket.Socket, blocking bool) (bool, error) {
	return false, s.SetBlocking(blocking)
}

// newBinder returns the binder of a broker that has not started. The test's end closes it.
func newBinder(t testing.TB, s Store) *Binder {
	t.Helper()
	exits, err := peer.NewExitWatcher()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(exits.Close)
	r := registry.New(registry.Config{Exits: exits, Health: noHealth{}, MaxGrantsPerUID: 10, Report: func(registry.Event) {}})
	b := New(Config{Registry: r, Store: s, MaxNames: 10})
	t.Cleanup(func() {
		for _, sock := range b.Close() {
			_ = sock.Close()
		}
	})
	return b
}

// nextID returns the id that the registry gives next.
func nextID(t testing.TB, b *Binder) int64 {
	t.Helper()
	d, err := b.cfg.Registry.Enroll(&registry.Caller{Privileged: true}, nil, nil, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	b.cfg.Registry.Leave(d)
	return d.ID()
}

// TestOldJournalIsKept: a journal of an older layout is read, and stays in the store until this broker is ready,
// because the version that wrote it may have to go on with it.
func TestOldJournalIsKept(t *testing.T) {
	fdtest.CheckLeaks(t)
	s := newStore(t)
	s.keepFile(t, "@state.old", oldJournal(41, journal.Upgrading))
	b := newBinder(t, s)
	took, err := b.Restore(s.passed(t, "@state.old"))
	if err != nil || !took.Restarted || took.Why != protocol.WhyUpgradeFailed {
		t.Fatalf("took over %+v, %v", took, err)
	}
	if now := b.cfg.Registry.Listeners(); len(now) != 1 || now[0].Socket.Name() != "old" || now[0].Token != 10 {
		t.Fatalf("a listener whose socket was not kept is not bound again: %+v", now)
	}
	names := s.names()
	if len(names) != 3 || !slices.Contains(names, "@state.old") || !slices.Contains(names, b.journal) {
		t.Fatalf("stored: %v, and the journal is %s", names, b.journal)
	}
	if id := nextID(t, b); id != 42 {
		t.Errorf("the next id is %d, want 42", id)
	}

	// A broker that fails before it is ready leaves both, and the next one has the choice.
	again := newBinder(t, s)
	if _, err := again.Restore(s.passed(t, names...)); err != nil {
		t.Fatal(err)
	}
	if now := s.names(); !slices.Equal(now, names) || again.journal != b.journal {
		t.Errorf("stored: %v, want %v; the journal is %s", now, names, again.journal)
	}
	if id := nextID(t, again); id != 43 {
		t.Errorf("the next id is %d, want 43", id)
	}

	again.Ready()
	if now := s.names(); !slices.Equal(now, []string{storedSocket(10), b.journal}) {
		t.Errorf("stored once it is ready: %v", now)
	}
	again.Ready() // again
	if now := s.names(); len(now) != 2 {
		t.Errorf("stored: %v", now)
	}
}

// TestOldJournalOfAStoppingBroker: a broker that is told to stop before it was ready has not started.
func TestOldJournalOfAStoppingBroker(t *testing.T) {
	fdtest.CheckLeaks(t)
	s := newStore(t)
	s.keepFile(t, "@state.old", oldJournal(41, journal.Upgrading))
	b := newBinder(t, s)
	if _, err := b.Restore(s.passed(t, "@state.old")); err != nil {
		t.Fatal(err)
	}
	b.Stop(journal.Stopped, func() {})
	b.Ready()
	if now := s.names(); !slices.Contains(now, "@state.old") {
		t.Errorf("stored: %v", now)
	}
}

// TestTwoJournals: a broker goes on with the journal of the present layout, whichever is passed first, and
// drops the other one once it is ready.
func TestTwoJournals(t *testing.T) {
	for _, order := range [][]string{{"@state.new", "@state.old"}, {"@state.old", "@state.new"}} {
		t.Run(strings.Join(order, " "), func(t *testing.T) {
			fdtest.CheckLeaks(t)
			s := newStore(t)
			s.keepFile(t, "@state.old", oldJournal(41, journal.Upgrading))
			s.keepJournal(t, "@state.new", 70)
			b := newBinder(t, s)
			took, err := b.Restore(s.passed(t, order...))
			if err != nil || took.Why != protocol.WhyCrashed || b.journal != "@state.new" {
				t.Errorf("took over %+v, %v; the journal is %s", took, err, b.journal)
			}
			if now := b.cfg.Registry.Listeners(); len(now) > 0 {
				t.Errorf("a listener that only the old journal has is restored: %+v", now)
			}
			if id := nextID(t, b); id != 71 {
				t.Errorf("the next id is %d, want 71", id)
			}
			if now := s.names(); len(now) != 2 {
				t.Errorf("stored: %v", now)
			}
			b.Ready()
			if now := s.names(); !slices.Equal(now, []string{"@state.new"}) {
				t.Errorf("stored once it is ready: %v", now)
			}
		})
	}
}

// TestDamagedJournal: a journal that cannot be gone on with by any version is dropped at once.
func TestDamagedJournal(t *testing.T) {
	old := oldJournal(41, journal.Upgrading)
	copy(old[64:], "garbage!")
	for name, text := range map[string][]byte{
		"empty":              {},
		"garbage":            []byte(strings.Repeat("garbage!", 100)),
		"of the old layout":  old,
		"of a future layout": append([]byte("bstate9\x00"), make([]byte, 4000)...),
	} {
		t.Run(name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			s := newStore(t)
			s.keepFile(t, "@state.bad", text)
			b := newBinder(t, s)
			took, err := b.Restore(s.passed(t, "@state.bad"))
			if err != nil || !took.Restarted {
				t.Errorf("took over %+v, %v", took, err)
			}
			if now := s.names(); !slices.Equal(now, []string{b.journal}) || b.journal == "@state.bad" {
				t.Errorf("stored: %v, and the journal is %s", now, b.journal)
			}
			b.Ready()
			if now := s.names(); !slices.Equal(now, []string{b.journal}) {
				t.Errorf("stored once it is ready: %v", now)
			}
		})
	}
	t.Run("of this layout", func(t *testing.T) {
		fdtest.CheckLeaks(t)
		s := newStore(t)
		s.keepJournal(t, "@state.bad", 70)
		_ = s.kept["@state.bad"].Control(func(fd uintptr) {
			if _, err := unix.Pwrite(int(fd), []byte("garbage!"), 64); err != nil {
				t.Error(err)
			}
		})
		s.keepFile(t, "@state.old", oldJournal(41, journal.Upgrading))
		b := newBinder(t, s)
		if _, err := b.Restore(s.passed(t, "@state.bad", "@state.old")); err != nil {
			t.Fatal(err)
		}
		if now := s.names(); len(now) != 3 || slices.Contains(now, "@state.bad") {
			t.Errorf("stored: %v", now)
		}
	})
}

// TestUselessDescriptors: a descriptor that no broker can use is closed and taken out of the store.
func TestUselessDescriptors(t *testing.T) {
	fdtest.CheckLeaks(t)
	s := newStore(t)
	for _, name := range []string{"@store", "@-1", "web"} {
		s.keepFile(t, name, []byte("x"))
	}
	b := newBinder(t, s)
	if _, err := b.Restore(s.passed(t, "@store", "@-1", "web")); err != nil {
		t.Fatal(err)
	}
	if now := s.names(); !slices.Equal(now, []string{b.journal}) {
		t.Errorf("stored: %v", now)
	}
}
