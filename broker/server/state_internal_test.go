//go:build linux

package server

import (
	"reflect"
	"testing"

	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// stateOf returns a state with these bytes, as the store would pass it.
func stateOf(t testing.TB, b []byte) *scmrights.FD {
	t.Helper()
	n, err := unix.MemfdCreate("state", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(n, b); err != nil {
		t.Fatal(err)
	}
	return scmrights.NewFD(n)
}

func someListener(serial uint64, token uint32) savedListener {
	return savedListener{serial: serial, cookie: 7, file: fileID{1, 2}, token: token, flags: savedConfigured, spec: "web=:80", sent: sent{all: 3, of: map[uint32]int64{5: 6}}}
}

func someGrant(serial uint64, id int64) savedGrant {
	return savedGrant{
		serial: serial, id: id, generation: 4, since: 5, process: processID{inode: 6}, peer: peer{7, 8, 9},
		signal: 15, flags: savedMore | savedDraining, tokens: []uint32{1, 2},
	}
}

// What was written is read again, whichever moment was the last, also in a state that
// had to grow.
func TestState(t *testing.T) {
	s, err := newState()
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	file, err := s.file.Dup() // what the store has
	if err != nil {
		t.Fatal(err)
	}
	at := make(map[int64]int)
	const many = 10000
	for id := int64(1); id <= many; id++ {
		g := someGrant(s.next(), id)
		s.scratch = g.append(s.scratch[:0])
		at[id] = s.replace(0, kindGrant)
	}
	for id := int64(2); id <= many; id += 2 {
		s.drop(at[id])
	}
	l := someListener(s.next(), 9)
	s.scratch = l.append(s.scratch[:0])
	first := s.replace(0, kindListener)
	l.serial, l.spec = s.next(), "web=:81"
	s.scratch = l.append(s.scratch[:0])
	s.add(kindListener, s.scratch) // and no time to drop the first
	s.set(atLastID, many+5)
	s.set(atEnding, endedUpgrading)

	again, err := openState(file)
	if err != nil {
		t.Fatal(err)
	}
	defer again.close()
	records, err := again.scan()
	if err != nil {
		t.Fatal(err)
	}
	v, err := again.read(records)
	if err != nil {
		t.Fatal(err)
	}
	if len(v.grants) != many/2 || v.lastID != many+5 || v.ending != endedUpgrading || again.end != s.end || again.serial != s.serial {
		t.Errorf("%d grants, last id %d, ending %d, end %d of %d, serial %d of %d", len(v.grants), v.lastID, v.ending, again.end, s.end, again.serial, s.serial)
	}
	want := someGrant(v.grants[3].serial, 3)
	if got := *v.grants[3]; !reflect.DeepEqual(got, want) {
		t.Errorf("grant: %+v, want %+v", got, want)
	}
	if got := v.listeners[9]; got == nil || !reflect.DeepEqual(*got, l) || len(v.superseded) != 1 || v.superseded[0] != first {
		t.Errorf("listener: %+v, want %+v; superseded: %v, want %d", got, l, v.superseded, first)
	}
	// A free place is used again before the state grows.
	end := again.end
	g := someGrant(again.next(), many+6)
	again.scratch = g.append(again.scratch[:0])
	if at := again.replace(0, kindGrant); at == 0 || again.end != end {
		t.Errorf("at %d, and the end went from %d to %d", at, end, again.end)
	}
}

// TestStateCut: a record that was being written when the broker was killed is not there,
// and those before it are.
func TestStateCut(t *testing.T) {
	s, err := newState()
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	g := someGrant(1, 1)
	s.add(kindGrant, g.append(nil))
	at := s.room(classOf(200))
	copy(s.data[at+recordHead:], "half of it")
	again := &state{data: s.data, end: stateHeader, file: s.file}
	records, err := again.scan()
	if err != nil || len(records) != 1 || again.end != s.end {
		t.Errorf("%d records, %v, end %d of %d", len(records), err, again.end, s.end)
	}
}

func TestTokens(t *testing.T) {
	for _, token := range []uint32{1, 35, 36, 46655, 1 << 31} {
		if got, ok := tokenOf(storedSocket(token)); !ok || got != token {
			t.Errorf("%s: %d, %t", storedSocket(token), got, ok)
		}
	}
	for _, name := range []string{storedControl, storedState, storedState + ".1f", "@store", "@", "@-1", "@zz"} {
		if token, ok := tokenOf(name); ok {
			t.Errorf("%s is the socket %d", name, token)
		}
	}
}

// FuzzState: any bytes are either a state or an error, and what is read can be gone on
// with.
func FuzzState(f *testing.F) {
	s, err := newState()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{})
	f.Add(append([]byte(nil), s.data[:1024]...))
	g, l := someGrant(1, 2), someListener(2, 1)
	s.add(kindGrant, g.append(nil))
	s.add(kindListener, l.append(nil))
	s.add(kindControl, savedControl{fileID{1, 2}, "/run/c"}.append(nil))
	f.Add(append([]byte(nil), s.data[:1024]...))
	s.close()
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := openState(stateOf(t, b))
		if err != nil {
			return
		}
		defer s.close()
		records, _ := s.scan()
		v, _ := s.read(records)
		for token, l := range v.listeners {
			back, err := parseListener(l.append(nil))
			if err != nil || !reflect.DeepEqual(back, *l) || l.token != token {
				t.Fatalf("%+v became %+v, %v", l, back, err)
			}
		}
		for id, g := range v.grants {
			back, err := parseGrant(g.append(nil))
			if err != nil || !reflect.DeepEqual(back, *g) || g.id != id {
				t.Fatalf("%+v became %+v, %v", g, back, err)
			}
		}
	})
}
