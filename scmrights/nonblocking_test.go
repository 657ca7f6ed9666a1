//go:build linux

package scmrights_test

import (
	"errors"
	"io"
	"os"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// nonblockingPair returns the two ends of a connection, neither of which waits.
func nonblockingPair(t testing.TB) (a, b scmrights.Nonblocking) {
	t.Helper()
	m, n := rawPair(t)
	ends := [2]scmrights.Nonblocking{{FD: scmrights.NewFD(m)}, {FD: scmrights.NewFD(n)}}
	for _, end := range ends {
		t.Cleanup(func() { _ = end.FD.Close() })
		if err := end.Control(func(fd uintptr) {
			if err := unix.SetNonblock(int(fd), true); err != nil {
				t.Error(err)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	return ends[0], ends[1]
}

func TestNonblocking(t *testing.T) {
	fdtest.CheckLeaks(t)
	for n := range 20 { // more than fit into the room that is there
		a, b := nonblockingPair(t)
		conn, err := scmrights.NewConn(b)
		if err != nil {
			t.Fatal(err)
		}
		fds := pipes(t, n)
		if err := a.Send([]byte("hello"), fds...); err != nil {
			t.Fatal(err)
		}
		if unread, err := a.Unread(); !unread || err != nil {
			t.Errorf("unread: %v %v", unread, err)
		}
		_, got, err := conn.Recv(make([]byte, 16), n)
		if err != nil || len(got) != n {
			t.Fatalf("got %d of %d descriptors: %v", len(got), n, err)
		}
		for i := range got {
			if inode(t, got[i]) != inode(t, fds[i]) {
				t.Errorf("descriptor %d of %d is another", i, n)
			}
		}
		scmrights.CloseAll(got)
		scmrights.CloseAll(fds)
		if _, err := a.Recv(make([]byte, 16)); !errors.Is(err, scmrights.ErrWouldBlock) {
			t.Errorf("nothing is there: %v", err)
		}
		_ = b.FD.Close()
		if _, err := a.Recv(make([]byte, 16)); err != io.EOF {
			t.Errorf("the peer has gone: %v", err)
		}
	}
}

// What cannot be sent leaves the descriptors as they were, to be closed or handed
// over.
func TestNonblockingSendFails(t *testing.T) {
	fdtest.CheckLeaks(t)
	for name, send := range map[string]func(a, b scmrights.Nonblocking, f *scmrights.FD) error{
		"no byte":  func(a, _ scmrights.Nonblocking, f *scmrights.FD) error { return a.Send(nil, f) },
		"too much": func(a, _ scmrights.Nonblocking, f *scmrights.FD) error { return a.Send(make([]byte, 1<<24), f) },
		"no peer": func(a, b scmrights.Nonblocking, f *scmrights.FD) error {
			_ = b.FD.Close()
			return a.Send([]byte("x"), f)
		},
		"closed": func(a, _ scmrights.Nonblocking, f *scmrights.FD) error {
			_ = a.FD.Close()
			return a.Send([]byte("x"), f)
		},
		"one closed": func(a, _ scmrights.Nonblocking, f *scmrights.FD) error {
			closed := scmrights.NewFD(-1)
			_ = closed.Close()
			return a.Send([]byte("x"), f, closed)
		},
	} {
		a, b := nonblockingPair(t)
		f := pipes(t, 1)[0]
		if err := send(a, b, f); err == nil {
			t.Errorf("%s: no error", name)
		}
		file, err := f.File(name)
		if err != nil {
			t.Errorf("still in use: %v", err)
			continue
		}
		_ = file.Close()
		if _, err := f.File(name); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: handed over twice: %v", name, err)
		}
	}
	a, _ := nonblockingPair(t)
	if err := a.Send(nil); err != nil {
		t.Errorf("nothing at all: %v", err)
	}
}
