//go:build linux

package scmrights

import (
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// FD is an open descriptor with one owner, who closes it.
//
// It is not an [os.File], because a non-blocking socket in an os.File joins the runtime's
// poller. That would wake for every connection that the workers accept on a held socket, and
// slow them down. An FD is only a number and a count of its uses.
//
// Its methods may be called concurrently. Close does not wait: the number is closed when its
// last use ends, so a use never meets a number that the kernel has given to another file.
type FD struct {
	state atomic.Int32 // twice the number of uses, plus one once closed
	n     int32
}

const (
	fdClosed = 1
	fdUse    = 2
)

// NewFD takes the descriptor n.
func NewFD(n int) *FD { return &FD{n: int32(n)} }

// acquire returns the number for use until release, or false once f is closed.
func (f *FD) acquire() (int, bool) {
	for {
		s := f.state.Load()
		if s&fdClosed != 0 {
			return -1, false
		}
		if f.state.CompareAndSwap(s, s+fdUse) {
			return int(f.n), true
		}
	}
}

// release ends a use that acquire began.
func (f *FD) release() {
	if f.state.Add(-fdUse) == fdClosed {
		_ = unix.Close(int(f.n)) // Close has returned, so nothing can return this error
	}
}

// Control calls use with the descriptor, which stays open until use returns. After Close it
// returns [os.ErrClosed] and does not call use.
func (f *FD) Control(use func(fd uintptr)) error {
	n, ok := f.acquire()
	if !ok {
		return os.ErrClosed
	}
	defer f.release()
	use(uintptr(n))
	return nil
}

// Dup returns a close-on-exec duplicate of f, which the caller must close.
func (f *FD) Dup() (*FD, error) {
	n, ok := f.acquire()
	if !ok {
		return nil, os.ErrClosed
	}
	defer f.release()
	d, err := unix.FcntlInt(uintptr(n), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return NewFD(d), nil
}

// File takes f's descriptor and returns it as a file, which the caller must close. A non-blocking descriptor joins the
// runtime's poller. f must not be in use; afterwards it is closed.
func (f *FD) File(name string) (*os.File, error) {
	if !f.state.CompareAndSwap(0, fdClosed) {
		return nil, fmt.Errorf("%s: descriptor in use or closed: %w", name, os.ErrClosed)
	}
	return os.NewFile(uintptr(f.n), name), nil
}

// Close closes f. Closing it again does nothing.
func (f *FD) Close() error {
	if f.state.Or(fdClosed) != 0 {
		return nil // it was closed before, or the last release closes it
	}
	return os.NewSyscallError("close", unix.Close(int(f.n)))
}

// CloseAll closes each of fds.
func CloseAll(fds []*FD) {
	for _, f := range fds {
		_ = f.Close()
	}
}
