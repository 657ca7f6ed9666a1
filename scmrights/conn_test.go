//go:build linux

package scmrights_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

func TestSendRecv(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3, 7, 8, 9, 64, 252, scmrights.MaxFDs} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			fdtest.CheckLeaks(t)
			a, b := connPair(t)
			sent := pipes(t, n)
			if err := a.Send([]byte("hello"), sent...); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 16)
			got, fds, err := b.Recv(buf, n)
			if err != nil {
				t.Fatal(err)
			}
			defer scmrights.CloseAll(fds)
			if string(buf[:got]) != "hello" || len(fds) != n {
				t.Fatalf("got %q and %d descriptors, want \"hello\" and %d", buf[:got], len(fds), n)
			}
			for i, f := range fds {
				if inode(t, f) != inode(t, sent[i]) {
					t.Errorf("descriptor %d is out of order", i)
				}
				if flags, err := unix.FcntlInt(uintptr(number(t, f)), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
					t.Errorf("descriptor %d is not close-on-exec: %#x, %v", i, flags, err)
				}
			}
		})
	}
}

func TestSendTooMany(t *testing.T) {
	fdtest.CheckLeaks(t)
	a, _ := connPair(t)
	err := a.Send([]byte("x"), pipes(t, scmrights.MaxFDs+1)...)
	if !errors.Is(err, unix.EINVAL) {
		t.Errorf("got %v, want EINVAL", err)
	}
}

func TestSendNothing(t *testing.T) {
	fdtest.CheckLeaks(t)
	a, _ := connPair(t)
	if err := a.Send(nil); err != nil {
		t.Errorf("without descriptors: %v", err)
	}
	if err := a.Send(nil, pipes(t, 1)...); err == nil {
		t.Error("a descriptor was sent with no byte: the kernel loses it")
	}
}

// Recv closes all descriptors of a message that has more than the limit, even if they fit
// into the room for control messages: room for an odd number admits one more.
func TestRecvTooMany(t *testing.T) {
	for _, c := range []struct{ sent, limit int }{{1, 0}, {2, 1}, {3, 1}, {4, 3}, {64, 8}, {scmrights.MaxFDs, 0}, {scmrights.MaxFDs, 252}} {
		t.Run(fmt.Sprintf("%d of %d", c.sent, c.limit), func(t *testing.T) {
			fdtest.CheckLeaks(t)
			a, b := connPair(t)
			sent := pipes(t, c.sent)
			before := len(fdtest.OpenFDs(t))
			if err := a.Send([]byte("x"), sent...); err != nil {
				t.Fatal(err)
			}
			_, fds, err := b.Recv(make([]byte, 4), c.limit)
			if !errors.Is(err, scmrights.ErrTooMany) || fds != nil {
				t.Errorf("got %d descriptors, %v; want ErrTooMany", len(fds), err)
			}
			if now := len(fdtest.OpenFDs(t)); now != before {
				t.Errorf("%d descriptors are open, %d were before", now, before)
			}
		})
	}
}

// With limit 0 the kernel installs no descriptor, not even for a moment: the next free
// number stays free, and the peer's pipe is closed.
func TestRecvWithLimitZeroClosesThem(t *testing.T) {
	fdtest.CheckLeaks(t)
	a, b := connPair(t)
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	w := scmrights.NewFD(p[1])
	r := os.NewFile(uintptr(p[0]), "reader")
	defer r.Close()
	if err := a.Send([]byte("x"), w); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	if _, _, err := b.Recv(make([]byte, 4), 0); !errors.Is(err, scmrights.ErrTooMany) {
		t.Fatalf("got %v, want ErrTooMany", err)
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("the writing end lives: read %d, %v", n, err)
	}
}

func TestRecvWithoutRoomForFiles(t *testing.T) {
	fdtest.CheckLeaks(t)
	x, y := rawPair(t)
	a := newConn(t, unixConn(t, x))
	if err := a.Send([]byte("x"), pipes(t, 5)...); err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(y), "pair")
	defer f.Close()
	cmd := fdtest.Helper(t, "fewfiles")
	cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.TrimSpace(string(out)), "true 0 true"; got != want {
		t.Errorf("ErrTooMany, descriptors, all closed: got %s, want %s", got, want)
	}
}

func TestRecvEOF(t *testing.T) {
	fdtest.CheckLeaks(t)
	x, y := pair(t)
	b := newConn(t, y)
	if err := newConn(t, x).Send([]byte("last")); err != nil {
		t.Fatal(err)
	}
	_ = x.Close()
	if n, _, err := b.Recv(make([]byte, 9), 1); n != 4 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	if _, _, err := b.Recv(make([]byte, 9), 1); err != io.EOF {
		t.Errorf("got %v, want io.EOF", err)
	}
}

func TestClosedConn(t *testing.T) {
	fdtest.CheckLeaks(t)
	x, y := pair(t)
	a := newConn(t, x)
	_ = y.Close()
	if err := a.Send([]byte("x"), pipes(t, 1)...); !errors.Is(err, unix.EPIPE) {
		t.Errorf("Send without a peer: %v", err) // and no SIGPIPE
	}
	_ = x.Close()
	if err := a.Send([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Send: %v", err)
	}
	if _, _, err := a.Recv(make([]byte, 1), 1); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Recv: %v", err)
	}
	if _, err := scmrights.NewConn(x); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, unix.EINVAL) {
		t.Errorf("NewConn: %v", err)
	}
}

func TestDeadlines(t *testing.T) {
	fdtest.CheckLeaks(t)
	x, _ := pair(t)
	a := newConn(t, x)
	if err := x.SetDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.Recv(make([]byte, 1), 1); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Recv: %v", err)
	}
	if err := a.Send([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Send: %v", err)
	}
}

// Send sends a message that is longer than the socket's buffer whole, and its descriptors
// once.
func TestSendMoreThanTheBuffer(t *testing.T) {
	fdtest.CheckLeaks(t)
	a, b := connPair(t)
	want := bytes.Repeat([]byte("0123456789"), 100_000)
	sent := pipes(t, 3)
	done := make(chan error, 1)
	go func() { done <- a.Send(want, sent...) }()
	var got []byte
	count := 0
	for buf := make([]byte, 10_000); len(got) < len(want); {
		n, fds, err := b.Recv(buf, 3)
		if err != nil {
			t.Fatal(err)
		}
		count += len(fds)
		scmrights.CloseAll(fds)
		got = append(got, buf[:n]...)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) || count != 3 {
		t.Errorf("%d bytes came, equal: %t, with %d descriptors", len(got), bytes.Equal(got, want), count)
	}
}

// One Recv never returns a Send's descriptors together with the bytes of a later Send.
func TestMessagesWithDescriptorsDoNotMerge(t *testing.T) {
	fdtest.CheckLeaks(t)
	a, b := connPair(t)
	for i, text := range []string{"aa", "bb", "cc", "dd"} {
		if err := a.Send([]byte(text), pipes(t, []int{0, 1, 2, 0}[i])...); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	buf := make([]byte, 64)
	for total := 0; total < 8; {
		n, fds, err := b.Recv(buf, 4)
		if err != nil {
			t.Fatal(err)
		}
		scmrights.CloseAll(fds)
		got = append(got, fmt.Sprintf("%s/%d", buf[:n], len(fds)))
		total += n
	}
	if s := strings.Join(got, " "); s != "aabb/1 cc/2 dd/0" {
		t.Errorf("got %s", s)
	}
}

// Passing a descriptor does not change O_NONBLOCK.
func TestPassingLeavesNonblockAlone(t *testing.T) {
	fdtest.CheckLeaks(t)
	for _, flag := range []int{0, unix.O_NONBLOCK} {
		a, b := connPair(t)
		n, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|flag, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := scmrights.NewFD(n)
		defer f.Close()
		if err := a.Send([]byte("x"), f); err != nil {
			t.Fatal(err)
		}
		_, fds, err := b.Recv(make([]byte, 1), 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range []*scmrights.FD{f, fds[0]} {
			if got, err := unix.FcntlInt(uintptr(number(t, f)), unix.F_GETFL, 0); err != nil || got&unix.O_NONBLOCK != flag {
				t.Errorf("born with %#x, now %#x, %v", flag, got&unix.O_NONBLOCK, err)
			}
		}
		scmrights.CloseAll(fds)
	}
}

// FuzzRecv sends any number of descriptors in any pieces to a Recv with any limit. In the
// end all of them are closed, and the bytes are those that were sent.
func FuzzRecv(f *testing.F) {
	f.Add([]byte{1, 1, 10, 0}, uint8(4), uint8(16))
	f.Add([]byte{3, 2, 200, 5, 1, 0}, uint8(1), uint8(1))
	f.Add([]byte{255, 253, 1, 0, 0, 9}, uint8(0), uint8(64))
	f.Fuzz(func(t *testing.T, sends []byte, limit, room uint8) {
		base := len(fdtest.OpenFDs(t))
		recvAll(t, sends, int(limit), int(room)+1)
		if now := len(fdtest.OpenFDs(t)); now != base {
			t.Fatalf("%d descriptors are open, %d were before", now, base)
		}
	})
}

// recvAll takes each two of sends as the bytes and the descriptors of one Send.
func recvAll(t *testing.T, sends []byte, limit, room int) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	fa, fb := os.NewFile(uintptr(p[0]), "a"), os.NewFile(uintptr(p[1]), "b")
	defer fa.Close()
	defer fb.Close()
	a, aerr := scmrights.NewConn(fa)
	b, berr := scmrights.NewConn(fb)
	if err := errors.Join(aerr, berr); err != nil {
		t.Fatal(err)
	}
	n, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := scmrights.NewFD(n)
	defer fd.Close()
	bytes, fds := 0, 0
	for i := 0; i+1 < len(sends) && i < 16; i += 2 {
		size, count := int(sends[i]), min(int(sends[i+1]), scmrights.MaxFDs)
		list := make([]*scmrights.FD, count)
		for j := range list {
			list[j] = fd
		}
		if err := a.Send(make([]byte, size), list...); err == nil {
			bytes, fds = bytes+size, fds+count
		} else if size > 0 {
			t.Fatalf("send of %d bytes with %d descriptors: %v", size, count, err)
		}
	}
	_ = fa.Close()
	gotBytes, gotFDs := 0, 0
	for {
		n, got, err := b.Recv(make([]byte, room), limit)
		if err == io.EOF {
			break
		}
		if errors.Is(err, scmrights.ErrTooMany) {
			return // a caller closes the connection then
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(got) > limit {
			t.Errorf("%d descriptors came, limit %d", len(got), limit)
		}
		scmrights.CloseAll(got)
		gotBytes, gotFDs = gotBytes+n, gotFDs+len(got)
	}
	if gotBytes != bytes || gotFDs != fds {
		t.Errorf("%d bytes and %d descriptors came of %d and %d", gotBytes, gotFDs, bytes, fds)
	}
}
