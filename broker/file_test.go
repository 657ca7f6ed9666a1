//go:build linux

package broker_test

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

// TestFile: a File is a duplicate of its own, and does not change the socket that all share, however it is used.
func TestFile(t *testing.T) {
	for kind, spec := range streamSpecs(t) {
		t.Run(kind, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			b := startBroker(t, spec)
			ln := b.dial("web")
			f, err := ln.File()
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			child := exec.Command("true")
			child.ExtraFiles = []*os.File{f}
			if err := child.Run(); err != nil {
				t.Error(err)
			}
			if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
				t.Errorf("O_NONBLOCK was cleared: flags %#x, %v", flags, err)
			}
			if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("not close-on-exec: flags %#x, %v", flags, err)
			}
			over := accepting(ln, "listener")
			if got := ask(t, ln.Addr()); got != "listener" {
				t.Errorf("got %q", got)
			}
			if err := ln.Close(); err != nil {
				t.Error(err)
			}
			if err := <-over; !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
			copied, err := net.FileListener(f) // lives on
			if err != nil {
				t.Fatal(err)
			}
			if u, ok := copied.(*net.UnixListener); ok {
				u.SetUnlinkOnClose(false)
			}
			defer copied.Close()
			go answer(copied, "file")
			if got := ask(t, copied.Addr()); got != "file" {
				t.Errorf("got %q", got)
			}
			if f, err := ln.File(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("of a closed listener: got %v, %v", f, err)
			}
		})
	}
}

// TestListenerDeadline: Accept heeds its deadline, also at the next socket, and after a drain there is none to heed.
func TestListenerDeadline(t *testing.T) {
	for kind, spec := range streamSpecs(t) {
		if kind == "abstract" {
			continue // its name is in use as long as the worker has the first socket
		}
		t.Run(kind, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			b := startBroker(t, spec)
			ln := b.dial("web")
			timedOut := func(when string) {
				t.Helper()
				if _, err := ln.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("%s: got %v, want ErrDeadlineExceeded", when, err)
				}
			}
			over := make(chan error)
			go func() { _, err := ln.Accept(); over <- err }()
			if err := ln.SetDeadline(time.Now().Add(time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			if err := <-over; !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("a blocked Accept: got %v", err)
			}
			timedOut("again")
			if err := b.server.Unbind("web"); err != nil {
				t.Fatal(err)
			}
			b.bind(spec)
			grant := b.holds("web").Grant
			fdtest.Eventually(t, "the listener has the new socket", func() bool { return ln.Grant() == grant })
			timedOut("at the next socket")
			if err := ln.SetDeadline(time.Time{}); err != nil {
				t.Fatal(err)
			}
			ended := accepting(ln, "accepted")
			if got := ask(t, ln.Addr()); got != "accepted" {
				t.Errorf("got %q", got)
			}
			_ = ln.SetDeadline(time.Now().Add(time.Hour))
			b.drain(broker.DrainOptions{}, "web")
			wantDrained(t, <-ended)
			if err := ln.SetDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
				t.Errorf("after a drain: got %v", err)
			}
		})
	}
}
