//go:build linux

package scmrights_test

import (
	"errors"
	"io"
	"os"
	"sync"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

func TestCloseTwice(t *testing.T) {
	fdtest.CheckLeaks(t)
	f := pipes(t, 1)[0]
	n := number(t, f)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if isOpen(n) {
		t.Fatal("open after Close")
	}
	other := pipes(t, 1)[0] // gets the number
	if got := number(t, other); got != n {
		t.Skipf("the number %d was given to something else, %d came", n, got)
	}
	if err := f.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if !isOpen(n) {
		t.Error("the second Close closed another's descriptor")
	}
}

func TestCloseOfABadNumber(t *testing.T) {
	f := pipes(t, 1)[0]
	_ = unix.Close(number(t, f))
	if err := f.Close(); !errors.Is(err, unix.EBADF) {
		t.Errorf("got %v, want EBADF", err)
	}
}

func TestCloseWaitsForTheLastUse(t *testing.T) {
	fdtest.CheckLeaks(t)
	f := pipes(t, 1)[0]
	var n int
	err := f.Control(func(fd uintptr) {
		n = int(fd)
		_ = f.Control(func(uintptr) { // a second use
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		})
		if !isOpen(n) {
			t.Error("closed during a use")
		}
		if err := f.Control(func(uintptr) { t.Error("a use began after Close") }); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Control after Close: %v", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if isOpen(n) {
		t.Error("open after the last use")
	}
}

func TestClosedFD(t *testing.T) {
	fdtest.CheckLeaks(t)
	f := pipes(t, 1)[0]
	_ = f.Close()
	if _, err := f.Dup(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Dup: %v", err)
	}
	if _, err := f.File("x"); !errors.Is(err, os.ErrClosed) {
		t.Errorf("File: %v", err)
	}
	a, _ := connPair(t)
	live := pipes(t, 1)[0]
	if err := a.Send([]byte("x"), live, f); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Send: %v", err)
	}
	_ = live.Close() // nothing of the failed Send may keep it open: CheckLeaks
}

func TestDup(t *testing.T) {
	fdtest.CheckLeaks(t)
	f := pipes(t, 1)[0]
	d, err := f.Dup()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	flags, err := unix.FcntlInt(uintptr(number(t, d)), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags %#x, %v: not close-on-exec", flags, err)
	}
	if inode(t, d) != inode(t, f) {
		t.Error("the duplicate is of something else")
	}
	_ = f.Close()
	if !isOpen(number(t, d)) {
		t.Error("the duplicate went with the original")
	}
}

func TestFile(t *testing.T) {
	fdtest.CheckLeaks(t)
	f := pipes(t, 1)[0]
	err := f.Control(func(uintptr) {
		if _, err := f.File("x"); !errors.Is(err, os.ErrClosed) {
			t.Errorf("File of a descriptor in use: %v", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	file, err := f.File("a pipe")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil { // the file's now
		t.Error(err)
	}
	if n, err := file.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("read %d, %v; want the end of the pipe", n, err)
	}
	if err := file.Close(); err != nil {
		t.Error(err)
	}
}

// Uses and a Close at the same time never meet a number that the kernel has given to another
// file. The race detector makes this test useful.
func TestConcurrentUseAndClose(t *testing.T) {
	fdtest.CheckLeaks(t)
	for range 200 {
		f := pipes(t, 1)[0]
		want := inode(t, f)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					err := f.Control(func(fd uintptr) {
						var st unix.Stat_t
						if err := unix.Fstat(int(fd), &st); err != nil || st.Ino != want {
							t.Errorf("in use: inode %d, %v; want %d", st.Ino, err, want)
						}
					})
					if err != nil {
						return
					}
				}
			})
		}
		wg.Go(func() { scmrights.CloseAll([]*scmrights.FD{f, f}) })
		wg.Wait()
	}
}
