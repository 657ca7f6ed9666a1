//go:build linux

package protocol_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// pair returns the two ends of a Unix stream connection.
func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	nums, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := make([]*net.UnixConn, 2)
	for i, n := range nums {
		f := os.NewFile(uintptr(n), "pair")
		c, err := net.FileConn(f)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		ends[i] = c.(*net.UnixConn)
	}
	return ends[0], ends[1]
}

func newConn(t *testing.T, c *net.UnixConn, limit, limitFDs int) *protocol.Conn {
	t.Helper()
	sc, err := scmrights.NewConn(c)
	if err != nil {
		t.Fatal(err)
	}
	pc := protocol.NewConn(sc, limit, limitFDs)
	t.Cleanup(pc.Discard)
	return pc
}

// receive returns the next message, as text and the number of its descriptors.
func receive(t *testing.T, c *protocol.Conn) (string, int) {
	t.Helper()
	for {
		m, ok := c.Next()
		if ok {
			scmrights.CloseAll(m.FDs)
			return string(m.Bytes), len(m.FDs)
		}
		if err := c.Fill(); err != nil {
			t.Fatal(err)
		}
	}
}

func pipe(t *testing.T) *scmrights.FD {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(p[1])
	f := scmrights.NewFD(p[0])
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestDescriptorsComeWithTheirMessage(t *testing.T) {
	fdtest.CheckLeaks(t)
	a, b := pair(t)
	from, to := newConn(t, a, 1<<20, 8), newConn(t, b, 1<<20, 8)
	fd := pipe(t)
	// All of it waits in the socket before the first read, so the kernel may merge messages.
	sent := []struct {
		text string
		fds  int
	}{
		{"plain", 0}, {"one", 1}, {"plain again", 0}, {"and again", 0}, {"three", 3},
		{strings.Repeat("x", 3000), 2}, {"last", 0},
	}
	for _, m := range sent {
		fds := []*scmrights.FD{fd, fd, fd}[:m.fds]
		if err := from.Send(append([]byte(m.text), 0), fds...); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range sent {
		text, fds := receive(t, to)
		if text != m.text || fds != m.fds {
			t.Errorf("got %.20q with %d descriptors, want %.20q with %d", text, fds, m.text, m.fds)
		}
	}
}

func TestFillReassembles(t *testing.T) {
	a, b := pair(t)
	to := newConn(t, b, 1<<20, 0)
	want := strings.Repeat("0123456789", 5000)
	go func() {
		for _, c := range []byte("split\x00") {
			_, _ = a.Write([]byte{c})
		}
		_, _ = a.Write([]byte(want + "\x00" + "tail\x00"))
		_ = a.Close()
	}()
	for _, w := range []string{"split", want, "tail"} {
		if got, _ := receive(t, to); got != w {
			t.Errorf("got %d bytes, want %d", len(got), len(w))
		}
	}
	if err := to.Fill(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v, want EOF", err)
	}
}

func TestMessageLimit(t *testing.T) {
	for _, limit := range []int{100, 4096} {
		a, b := pair(t)
		to := newConn(t, b, limit, 0)
		fits := strings.Repeat("y", limit-1)
		if _, err := a.Write([]byte(fits + "\x00" + strings.Repeat("z", limit))); err != nil {
			t.Fatal(err)
		}
		if got, _ := receive(t, to); got != fits {
			t.Errorf("limit %d: a message of the limit is %d bytes", limit, len(got))
		}
		var err error
		for err == nil {
			if _, ok := to.Next(); ok {
				t.Fatalf("limit %d: a message over the limit got through", limit)
			}
			err = to.Fill()
		}
		if !errors.Is(err, protocol.ErrLimitReached) {
			t.Errorf("limit %d: got %v, want ErrLimitReached", limit, err)
		}
	}
}

func TestUnwantedDescriptors(t *testing.T) {
	fdtest.CheckLeaks(t)
	fd := pipe(t)
	for _, limit := range []int{0, 1, 2} {
		a, b := pair(t)
		from, to := newConn(t, a, 1024, 0), newConn(t, b, 1024, limit)
		if err := from.Send([]byte("x\x00"), fd, fd, fd); err != nil {
			t.Fatal(err)
		}
		before := len(fdtest.OpenFDs(t))
		if err := to.Fill(); !errors.Is(err, protocol.ErrMalformed) {
			t.Errorf("limit %d: got %v, want ErrMalformed", limit, err)
		}
		if after := len(fdtest.OpenFDs(t)); after != before {
			t.Errorf("limit %d: %d descriptors open, %d before", limit, after, before)
		}
	}
}

func TestDiscardClosesWhatWasNotTaken(t *testing.T) {
	fdtest.CheckLeaks(t)
	a, b := pair(t)
	from, to := newConn(t, a, 1024, 0), newConn(t, b, 1024, 4)
	fd := pipe(t)
	if err := from.Send([]byte("half a message"), fd, fd); err != nil {
		t.Fatal(err)
	}
	if err := to.Fill(); err != nil {
		t.Fatal(err)
	}
	to.Discard()
}

func FuzzConn(f *testing.F) {
	f.Add([]byte("a\x00bc\x00\x00d"), uint8(3), uint8(2))
	f.Add(bytes.Repeat([]byte("x"), 700), uint8(100), uint8(0))
	f.Fuzz(func(t *testing.T, data []byte, chunk, fds uint8) {
		if len(data) == 0 || len(data) > 4096 {
			t.Skip("nothing to send, or more than the socket takes at once")
		}
		nums, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		file := os.NewFile(uintptr(nums[0]), "from")
		defer file.Close()
		end := os.NewFile(uintptr(nums[1]), "to")
		defer end.Close()
		sc, err := scmrights.NewConn(file)
		if err != nil {
			t.Fatal(err)
		}
		receiver, err := scmrights.NewConn(end)
		if err != nil {
			t.Fatal(err)
		}
		to := protocol.NewConn(receiver, 1024, 4)
		defer to.Discard()
		fd := scmrights.NewFD(nums[0]) // Send borrows it
		carried := []*scmrights.FD{fd, fd, fd, fd}[:fds%5]
		if err := sc.Send(data[:min(len(data), int(chunk)+1)], carried...); err != nil {
			t.Fatal(err)
		}
		if err := sc.Send(data[min(len(data), int(chunk)+1):]); err != nil {
			t.Fatal(err)
		}
		if err := unix.Shutdown(nums[0], unix.SHUT_WR); err != nil {
			t.Fatal(err)
		}
		var got []byte
		n := 0
		for {
			m, ok := to.Next()
			if ok {
				got = append(append(got, m.Bytes...), 0)
				n += len(m.FDs)
				scmrights.CloseAll(m.FDs)
				continue
			}
			if err := to.Fill(); err != nil {
				if errors.Is(err, protocol.ErrLimitReached) && longest(data) < 1024 {
					t.Fatalf("%v, and the longest message has %d bytes", err, longest(data))
				}
				if errors.Is(err, io.EOF) && !bytes.Equal(got, data[:bytes.LastIndexByte(data, 0)+1]) {
					t.Fatalf("got %q of %q", got, data)
				}
				break
			}
		}
		if n > len(carried) {
			t.Fatalf("%d descriptors from %d", n, len(carried))
		}
	})
}

// longest is the length of the longest message in data, its NUL included.
func longest(data []byte) int {
	most := 0
	for m := range bytes.SplitSeq(data, []byte{0}) {
		most = max(most, len(m)+1)
	}
	return most
}
