package journal_test

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker/server/journal"
	"github.com/fdbroker/fdbroker/broker/server/peer"
	"github.com/fdbroker/fdbroker/broker/socket/sockfile"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	fdtest.Main(m, map[string]func([]string) int{"writer": writerHelper})
}

// begin returns a new journal, which the test's end closes.
func begin(t testing.TB) *journal.Journal {
	t.Helper()
	j, err := journal.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(j.Close)
	return j
}

// reopen returns the journal as the next broker opens it, and its contents.
func reopen(t testing.TB, j *journal.Journal) (*journal.Journal, journal.Contents) {
	t.Helper()
	fd, err := j.File().Dup()
	if err != nil {
		t.Fatal(err)
	}
	next, c, err := journal.Open(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(next.Close)
	return next, c
}

// fileOf returns a file with these bytes.
func fileOf(t testing.TB, b []byte) *scmrights.FD {
	t.Helper()
	n, err := unix.MemfdCreate("journal", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(n, b); err != nil {
		t.Fatal(err)
	}
	return scmrights.NewFD(n)
}

// bytesOf returns the first n bytes of the journal's file.
func bytesOf(t testing.TB, j *journal.Journal, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if err := j.File().Control(func(fd uintptr) {
		if _, err := unix.Pread(int(fd), b, 0); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	return b
}

// memory returns how many bytes the file takes.
func memory(t testing.TB, j *journal.Journal) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := j.File().Control(func(fd uintptr) {
		if err := unix.Fstat(int(fd), &st); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func empty() journal.Contents {
	return journal.Contents{Listeners: make(map[uint32]*journal.Listener), Grants: make(map[int64]*journal.Grant)}
}

func someListener(token uint32) *journal.Listener {
	return &journal.Listener{
		Token: token, Cookie: 7, File: sockfile.FileID{Dev: 1, Ino: 1 << 63}, Configured: true, Blocking: true, Unstored: true, Unseen: 5,
		Fence: journal.Fence{All: 3, Of: map[uint32]int64{5: 6, 1<<32 - 1: 1<<63 - 1}}, Spec: "web=:80",
	}
}

func someGrant(id int64) *journal.Grant {
	return &journal.Grant{
		ID: id, Generation: 4, Since: time.UnixMicro(1700000000000001), Process: peer.ID{Inode: 6, PID: 7, Start: 8},
		Peer: peer.Credentials{PID: 7, UID: 8, GID: 9}, Signal: unix.SIGTERM, More: true, Discovered: true, Tokens: []uint32{1, 1 << 31},
	}
}

// TestJournal: the next broker finds the last record of each thing.
func TestJournal(t *testing.T) {
	fdtest.CheckLeaks(t)
	j := begin(t)
	if _, c := reopen(t, j); !reflect.DeepEqual(c, empty()) {
		t.Errorf("a new journal has %+v", c)
	}
	want := empty()
	want.Control = journal.Control{File: sockfile.FileID{Dev: 1, Ino: 2}, Path: "/run/c"}
	j.PutControl(journal.Control{Path: "/run/old"})
	j.PutControl(want.Control)
	for token := range uint32(4) {
		want.Listeners[token] = someListener(token)
		j.PutListener(want.Listeners[token])
	}
	want.Listeners[2] = &journal.Listener{Token: 2, Adopted: true, Spec: strings.Repeat("x", 4096)}
	j.PutListener(want.Listeners[2])
	j.RemoveListener(3)
	j.RemoveListener(99)
	delete(want.Listeners, 3)
	many := make(map[uint32]int64) // however many users drain a listener, there is room for it
	for uid := range uint32(5000) {
		many[uid] = int64(uid)
	}
	want.Listeners[4] = &journal.Listener{Token: 4, Fence: journal.Fence{Of: many}, Spec: strings.Repeat("x", 4096)}
	j.PutListener(want.Listeners[4])
	for id := range int64(4) {
		want.Grants[id+1] = someGrant(id + 1)
		j.PutGrant(want.Grants[id+1])
	}
	want.Grants[3] = &journal.Grant{ID: 3, Draining: true, Since: time.UnixMicro(0)}
	j.PutGrant(want.Grants[3])
	j.RemoveGrant(4)
	j.RemoveGrant(99)
	delete(want.Grants, 4)
	j.SetLastID(20)
	j.SetEnding(journal.Upgrading, 4321)
	want.LastID, want.Ending, want.Process = 20, journal.Upgrading, 4321
	for range 2 {
		if j.Err() != nil {
			t.Error(j.Err())
		}
		var got journal.Contents
		if j, got = reopen(t, j); !reflect.DeepEqual(got, want) {
			t.Fatalf("got\n%+v\nwant\n%+v", got, want)
		}
		// The next broker goes on.
		j.RemoveListener(2)
		delete(want.Listeners, 2)
		j.PutGrant(someGrant(30))
		want.Grants[30] = someGrant(30)
		want.LastID = 30
	}
}

// TestSeal: the grants of a sealed journal stay, and nothing of a closed one changes.
func TestSeal(t *testing.T) {
	fdtest.CheckLeaks(t)
	j := begin(t)
	j.PutGrant(someGrant(1))
	j.Seal()
	j.RemoveGrant(1)
	j.PutGrant(someGrant(2))
	j.PutListener(someListener(1))
	next, c := reopen(t, j)
	if len(c.Grants) != 1 || c.Grants[1] == nil || len(c.Listeners) != 1 {
		t.Errorf("got %+v", c)
	}
	j.Close()
	j.Close()
	j.RemoveListener(1)
	j.PutListener(someListener(2))
	j.SetLastID(5)
	j.SetEnding(journal.Stopped, 1)
	if _, again := reopen(t, next); !reflect.DeepEqual(again, c) || j.Err() != nil {
		t.Errorf("got %+v, was %+v; %v", again, c, j.Err())
	}
}

func TestLayout(t *testing.T) {
	fdtest.CheckLeaks(t)
	if got := journal.Layout; got != "bstate3" {
		t.Errorf("got %s", got)
	}
	for layout, want := range map[string]bool{"bstate3": true, "bstate2": true, "bstate1": false, "": false} {
		if journal.Reads(layout) != want {
			t.Errorf("%q: %t", layout, !want)
		}
	}
}

// step changes a journal and a model of it in the same random way.
func step(r *rand.Rand, j *journal.Journal, want *journal.Contents) {
	switch token, id := uint32(r.IntN(20)), r.Int64N(500)+1; r.IntN(7) {
	case 0:
		want.Control = journal.Control{File: sockfile.FileID{Ino: r.Uint64()}, Path: strings.Repeat("c", r.IntN(100))}
		j.PutControl(want.Control)
	case 1, 2:
		l := someListener(token)
		l.Cookie, l.Spec = r.Uint64(), strings.Repeat("s", 1+r.IntN(200))
		j.PutListener(l)
		want.Listeners[token] = l
	case 3:
		j.RemoveListener(token)
		delete(want.Listeners, token)
	case 4, 5:
		g := someGrant(id)
		g.Generation = r.Int64()
		g.Tokens = make([]uint32, 1+r.IntN(100))
		for i := range g.Tokens {
			g.Tokens[i] = r.Uint32()
		}
		j.PutGrant(g)
		want.Grants[id] = g
	case 6:
		j.RemoveGrant(id)
		delete(want.Grants, id)
	}
}

// sameRecords reports whether a and b have the same records.
func sameRecords(a, b journal.Contents) bool {
	return a.Control == b.Control && reflect.DeepEqual(a.Listeners, b.Listeners) && reflect.DeepEqual(a.Grants, b.Grants)
}

// TestCompaction: whatever was replaced takes no memory for long, and costs nothing that is in force.
func TestCompaction(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := rand.New(rand.NewPCG(1, 2))
	j, want := begin(t), empty()
	most := int64(0)
	for i := range 20000 {
		step(r, j, &want)
		if i%100 == 0 {
			most = max(most, memory(t, j))
		}
		if i%2500 == 0 {
			next, got := reopen(t, j)
			j.Close() // a 32-bit program has no room for eight of its mappings
			if j = next; !sameRecords(got, want) {
				t.Fatalf("after %d steps: got\n%+v\nwant\n%+v", i, got, want)
			}
		}
	}
	if j.Err() != nil || most > 1<<19 {
		t.Errorf("%v; it took %d bytes", j.Err(), most)
	}
}

// bigGrant returns a grant with a record of some kilobytes.
func bigGrant(id int64) *journal.Grant {
	g := someGrant(id)
	g.Tokens = make([]uint32, 2000)
	for i := range g.Tokens {
		g.Tokens[i] = 1 << 31
	}
	return g
}

// TestFull: a journal without room keeps its records, and Err says so.
func TestFull(t *testing.T) {
	fdtest.CheckLeaks(t)
	j, c, err := journal.Open(fileOf(t, bytesOf(t, begin(t), 1<<20)))
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	for i := range 1000 { // which compacting makes room for
		g := bigGrant(1)
		g.Generation = int64(i)
		j.PutGrant(g)
	}
	if j.Err() != nil {
		t.Fatal(j.Err())
	}
	for id := int64(2); j.Err() == nil; id++ {
		j.PutGrant(bigGrant(id))
	}
	last := bigGrant(1)
	j.PutGrant(last)
	if _, c = reopen(t, j); len(c.Grants) < 2 || c.Grants[1].Generation != 999 || c.Grants[int64(len(c.Grants))] == nil {
		t.Errorf("%d grants, the first of generation %d", len(c.Grants), c.Grants[1].Generation)
	}
	for id := range c.Grants {
		j.RemoveGrant(id)
	}
	j.PutGrant(last)
	if _, c = reopen(t, j); len(c.Grants) != 1 || !reflect.DeepEqual(c.Grants[1], last) {
		t.Errorf("%d grants once there was room", len(c.Grants))
	}
}

// TestDamaged: of a damaged journal the records before the damage are left.
func TestDamaged(t *testing.T) {
	fdtest.CheckLeaks(t)
	j := begin(t)
	const header, start = 64, 32
	j.PutListener(someListener(1))
	j.PutGrant(someGrant(1))
	j.PutGrant(someGrant(2))
	log := bytesOf(t, j, 512)
	second := header + 8 + int(binary.NativeEndian.Uint64(log[header:])>>8&(1<<24-1)+7)&^7
	end := len(strings.TrimRight(string(log), "\x00"))
	for at := range end - second {
		b := append([]byte(nil), log...)
		b[second+at] ^= 1 << (at % 8)
		next, c, err := journal.Open(fileOf(t, b))
		if !errors.Is(err, journal.ErrDamaged) || next != nil {
			// Padding may hold anything.
			if next == nil || len(c.Grants) != 2 {
				t.Errorf("byte %d: %v", second+at, err)
			}
			next.Close()
			continue
		}
		if !reflect.DeepEqual(c.Listeners[1], someListener(1)) || len(c.Grants) > 1 {
			t.Errorf("byte %d: %+v", second+at, c)
		}
	}
	for name, change := range map[string]func(b []byte) []byte{
		"no end":          func(b []byte) []byte { return b[:end&^7] },
		"start":           func(b []byte) []byte { b[start] = 8; return b },
		"odd start":       func(b []byte) []byte { b[start]++; return b },
		"start elsewhere": func(b []byte) []byte { b[start+4] = 1; return b },
		"start negative":  func(b []byte) []byte { b[start+7] = 255; return b },
	} {
		if next, _, err := journal.Open(fileOf(t, change(append([]byte(nil), log...)))); !errors.Is(err, journal.ErrDamaged) || next != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, b := range map[string][]byte{"empty": nil, "short": log[:header], "garbage": []byte(strings.Repeat("garbage!", 100))} {
		if next, c, err := journal.Open(fileOf(t, b)); !errors.Is(err, journal.ErrNotJournal) || next != nil || !reflect.DeepEqual(c, empty()) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	n, err := unix.FcntlInt(r.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	if _, _, err := journal.Open(scmrights.NewFD(n)); !errors.Is(err, journal.ErrNotJournal) {
		t.Errorf("a pipe: %v", err)
	}
}

// TestOldLayout: the journal of a broker before this layout is read. The bytes are of such
// a broker; it was killed before it could drop a record that it had replaced.
func TestOldLayout(t *testing.T) {
	fdtest.CheckLeaks(t)
	b, err := os.ReadFile("testdata/bstate2")
	if err != nil {
		t.Fatal(err)
	}
	want := empty()
	want.Control = journal.Control{File: sockfile.FileID{Dev: 65025, Ino: 4711}, Path: "/run/fdbroker/control"}
	want.Listeners[2] = &journal.Listener{
		Token: 2, Cookie: 8, Configured: true, Spec: "web=tcp://:81", Fence: journal.Fence{All: 9, Of: map[uint32]int64{1000: 12}},
	}
	want.Listeners[3] = &journal.Listener{
		Token: 3, Cookie: 1 << 40, File: sockfile.FileID{Dev: 65025, Ino: 4712}, Adopted: true, Blocking: true, Spec: "app=unix:///run/app,mode=0660",
	}
	want.Grants[10] = &journal.Grant{
		ID: 10, Generation: 10, Since: time.UnixMicro(1700000000000001), Process: peer.ID{Inode: 6},
		Peer: peer.Credentials{PID: 7, UID: 8, GID: 9}, Discovered: true, Tokens: []uint32{2},
	}
	want.Grants[11] = &journal.Grant{
		ID: 11, Generation: 4, Since: time.UnixMicro(1700000000000002), Process: peer.ID{PID: 100, Start: 200},
		Peer: peer.Credentials{PID: 100, UID: 1000, GID: 1001}, Signal: unix.SIGTERM, Draining: true, Tokens: []uint32{2, 3},
	}
	want.Grants[12] = &journal.Grant{
		ID: 12, Generation: 12, Since: time.UnixMicro(1700000000000003), Peer: peer.Credentials{PID: 101}, More: true,
	}
	for i := range uint32(40) {
		want.Grants[12].Tokens = append(want.Grants[12].Tokens, 2+i)
	}
	want.LastID, want.Ending, want.Process = 20, journal.Upgrading, 4321
	j, got, err := journal.Open(fileOf(t, b))
	if j != nil || err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v\n%+v\nwant\n%+v", err, got, want)
	}
	// A damaged one is read up to the damage.
	spoiled := append([]byte(nil), b...)
	spoiled[320+20] ^= 1 // in the grant 10, behind all listeners
	j, got, err = journal.Open(fileOf(t, spoiled))
	if j != nil || !errors.Is(err, journal.ErrDamaged) || !reflect.DeepEqual(got.Listeners, want.Listeners) || len(got.Grants) > 0 {
		t.Errorf("damaged: got %v\n%+v", err, got)
	}
}

// FuzzOpen: any bytes are either a journal or an error, and a journal can be gone on with.
func FuzzOpen(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte(strings.Repeat("garbage!", 100)))
	j := begin(f)
	f.Add(bytesOf(f, j, 1024))
	j.PutListener(someListener(1))
	j.PutGrant(someGrant(1))
	j.RemoveListener(1)
	j.PutControl(journal.Control{Path: "/run/c"})
	f.Add(bytesOf(f, j, 1024))
	old, err := os.ReadFile("testdata/bstate2")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(old)
	f.Fuzz(func(t *testing.T, b []byte) {
		j, c, err := journal.Open(fileOf(t, b))
		if j == nil {
			if err == nil && binary.NativeEndian.Uint64(b)>>48 != 0x32 {
				t.Fatal("neither a journal nor an error")
			}
			if err != nil && !errors.Is(err, journal.ErrDamaged) && !errors.Is(err, journal.ErrNotJournal) {
				t.Fatal(err)
			}
			j = begin(t)
			j.PutControl(c.Control)
			for _, l := range c.Listeners {
				j.PutListener(l)
			}
			for _, g := range c.Grants {
				j.PutGrant(g)
			}
			j.SetLastID(c.LastID)
			j.SetEnding(c.Ending, c.Process)
		}
		defer j.Close()
		next, again := reopen(t, j)
		defer next.Close()
		if !reflect.DeepEqual(again, c) {
			t.Fatalf("%+v became %+v", c, again)
		}
		next.PutListener(someListener(77))
		next.RemoveGrant(1)
		if next.Err() != nil {
			return
		}
		last, now := reopen(t, next)
		defer last.Close()
		if now.Grants[1] != nil || !reflect.DeepEqual(now.Listeners[77], someListener(77)) || len(now.Listeners) < len(c.Listeners) {
			t.Fatalf("%+v became %+v", c, now)
		}
	})
}

// TestLimited: a process that may not make large files has a smaller journal.
func TestLimited(t *testing.T) {
	fdtest.CheckLeaks(t)
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 100 << 20, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	j, err := journal.New()
	_ = unix.Setrlimit(unix.RLIMIT_FSIZE, &was)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	j.PutListener(&journal.Listener{Token: 1, Spec: "web=:80"})
	if _, c := reopen(t, j); len(c.Listeners) != 1 {
		t.Errorf("got %+v", c)
	}
}
