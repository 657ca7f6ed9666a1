//go:build linux

package scmrights_test

import (
	"bytes"
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
	for n := range 20 { // more than send has room for without memory of its own
		a, b := nonblockingPair(t)
		fds := pipes(t, n)
		if n, err := a.Send([]byte("hello"), fds...); n != 5 || err != nil {
			t.Fatal(n, err)
		}
		if unread, err := a.Unread(); !unread || err != nil {
			t.Errorf("unread: %v %v", unread, err)
		}
		_, got, err := b.Recv(make([]byte, 16), n)
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
		if _, _, err := a.Recv(make([]byte, 16), 0); !errors.Is(err, scmrights.ErrWouldBlock) {
			t.Errorf("nothing is there: %v", err)
		}
		_ = b.FD.Close()
		if _, _, err := a.Recv(make([]byte, 16), 0); err != io.EOF {
			t.Errorf("the peer has gone: %v", err)
		}
	}
}

// A Send that fails leaves the descriptors as they were, so the caller can close them or
// hand them over.
func TestNonblockingSendFails(t *testing.T) {
	fdtest.CheckLeaks(t)
	for name, send := range map[string]func(a, b scmrights.Nonblocking, f *scmrights.FD) (int, error){
		"no byte":  func(a, _ scmrights.Nonblocking, f *scmrights.FD) (int, error) { return a.Send(nil, f) },
		"too much": func(a, _ scmrights.Nonblocking, f *scmrights.FD) (int, error) { return a.Send(make([]byte, 1<<24), f) },
		"no peer": func(a, b scmrights.Nonblocking, f *scmrights.FD) (int, error) {
			_ = b.FD.Close()
			return a.Send([]byte("x"), f)
		},
		"closed": func(a, _ scmrights.Nonblocking, f *scmrights.FD) (int, error) {
			_ = a.FD.Close()
			return a.Send([]byte("x"), f)
		},
		"one closed": func(a, _ scmrights.Nonblocking, f *scmrights.FD) (int, error) {
			closed := scmrights.NewFD(-1)
			_ = closed.Close()
			return a.Send([]byte("x"), f, closed)
		},
	} {
		a, b := nonblockingPair(t)
		f := pipes(t, 1)[0]
		n, err := send(a, b, f)
		if err == nil || n > 0 != (name == "too much") {
			t.Errorf("%s: sent %d bytes, %v", name, n, err)
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
	if n, err := a.Send(nil); n != 0 || err != nil {
		t.Errorf("nothing at all: %d, %v", n, err)
	}
}

// A Send to a full buffer says how much of it was sent, and whether the descriptors were.
func TestNonblockingSendPart(t *testing.T) {
	fdtest.CheckLeaks(t)
	a, b := nonblockingPair(t)
	want := bytes.Repeat([]byte("0123456789"), 1<<20)
	sent, err := a.Send(want, pipes(t, 1)...)
	if sent == 0 || sent == len(want) || !errors.Is(err, scmrights.ErrWouldBlock) {
		t.Fatalf("sent %d bytes: %v", sent, err)
	}
	if n, err := a.Send(want[sent:], pipes(t, 1)...); n != 0 || !errors.Is(err, scmrights.ErrWouldBlock) {
		t.Errorf("sent %d bytes to a full buffer: %v", n, err)
	}
	var got []byte
	buf := make([]byte, 1<<16)
	n, fds, err := b.Recv(buf, 1)
	if err != nil || len(fds) != 1 {
		t.Fatalf("%d descriptors came with the first byte: %v", len(fds), err)
	}
	scmrights.CloseAll(fds)
	for err == nil {
		got = append(got, buf[:n]...)
		n, fds, err = b.Recv(buf, 1)
		if len(fds) > 0 {
			t.Errorf("%d descriptors more", len(fds))
			scmrights.CloseAll(fds)
		}
	}
	if !errors.Is(err, scmrights.ErrWouldBlock) || !bytes.Equal(got, want[:sent]) {
		t.Errorf("%d bytes of %d arrived: %v", len(got), sent, err)
	}
}

// Peek sees descriptors before a Recv can drop them, and neither closes nor takes them.
func TestNonblockingPeek(t *testing.T) {
	fdtest.CheckLeaks(t)
	a, b := nonblockingPair(t)
	buf := make([]byte, 16)
	peek := func(want string, wantDescriptors bool, room int) {
		t.Helper()
		n, descriptors, err := b.Peek(buf[:room])
		if err != nil || string(buf[:n]) != want || descriptors != wantDescriptors {
			t.Errorf("peeked at %q, descriptors: %v, %v; want %q, %v", buf[:n], descriptors, err, want, wantDescriptors)
		}
	}
	recv := func(want string) {
		t.Helper()
		n, _, err := b.Recv(buf[:len(want)], 0)
		if err != nil || string(buf[:n]) != want {
			t.Errorf("received %q: %v; want %q", buf[:n], err, want)
		}
	}
	if _, _, err := b.Peek(buf); !errors.Is(err, scmrights.ErrWouldBlock) {
		t.Errorf("nothing is there: %v", err)
	}
	f := pipes(t, 1)[0]
	send := func(text string, fds ...*scmrights.FD) {
		t.Helper()
		if _, err := a.Send([]byte(text), fds...); err != nil {
			t.Fatal(err)
		}
	}
	send("ab")
	send("cd")
	peek("abcd", false, 16)
	peek("abc", false, 3)
	send("ef", f)
	send("gh")
	peek("a", true, 1) // the kernel also looks at the messages behind
	peek("abcde", true, 5)
	peek("abcdef", true, 16)
	recv("abcd")
	peek("ef", true, 16)
	peek("ef", true, 16)
	n, fds, err := b.Recv(buf, 1)
	if err != nil || string(buf[:n]) != "ef" || len(fds) != 1 || inode(t, fds[0]) != inode(t, f) {
		t.Fatalf("received %q and %d descriptors: %v", buf[:n], len(fds), err)
	}
	scmrights.CloseAll(fds)
	peek("gh", false, 16)
	if _, fds, err := b.Recv(buf, 1); err != nil || len(fds) > 0 {
		t.Errorf("%d descriptors: %v", len(fds), err)
	}
	send("x", f)
	if _, _, err := b.Recv(buf, 0); !errors.Is(err, scmrights.ErrTooMany) {
		t.Errorf("descriptors without Peek: %v", err)
	}
	_ = a.FD.Close()
	if _, _, err := b.Peek(buf); err != io.EOF {
		t.Errorf("the peer has gone: %v", err)
	}
	_ = b.FD.Close()
	if _, _, err := b.Peek(buf); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

func TestNonblockingShutdownRead(t *testing.T) {
	fdtest.CheckLeaks(t)
	a, b := nonblockingPair(t)
	if _, err := a.Send([]byte("x"), pipes(t, 1)...); err != nil {
		t.Fatal(err)
	}
	if err := b.ShutdownRead(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Send([]byte("y")); !errors.Is(err, unix.EPIPE) {
		t.Errorf("sent to a socket that is shut down: %v", err)
	}
	buf := make([]byte, 16)
	if n, descriptors, err := b.Peek(buf); n != 1 || !descriptors || err != nil {
		t.Errorf("what came before: %d bytes, descriptors: %v, %v", n, descriptors, err)
	}
	if _, _, err := b.Recv(buf, 0); !errors.Is(err, scmrights.ErrTooMany) {
		t.Errorf("what came before: %v", err)
	}
	if _, _, err := b.Recv(buf, 0); err != io.EOF {
		t.Errorf("after it: %v", err)
	}
	_ = b.FD.Close()
	if err := b.ShutdownRead(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

func TestUnread(t *testing.T) {
	fdtest.CheckLeaks(t)
	a, b := nonblockingPair(t)
	check := func(when string, want bool) {
		t.Helper()
		if got, err := a.Unread(); err != nil || got != want {
			t.Errorf("%s: got %t, %v; want %t", when, got, err, want)
		}
	}
	check("nothing sent", false)
	if _, err := a.Send([]byte("x"), pipes(t, 1)...); err != nil {
		t.Fatal(err)
	}
	check("one byte sent", true)
	_, fds, err := b.Recv(make([]byte, 1), 1)
	if err != nil {
		t.Fatal(err)
	}
	scmrights.CloseAll(fds)
	check("read", false)
}
