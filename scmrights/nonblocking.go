//go:build linux

package scmrights

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrWouldBlock is what operations on a [Nonblocking] return instead of waiting.
var ErrWouldBlock = errors.New("scmrights: would block")

// Nonblocking is a non-blocking Unix stream socket that nothing waits on: its owner
// has a poller of its own, and calls when there is something to do. It
// implements [syscall.Conn] and [syscall.RawConn]; closing FD is the owner's
// business.
type Nonblocking struct {
	FD *FD
}

var (
	_ syscall.Conn    = Nonblocking{}
	_ syscall.RawConn = Nonblocking{}
)

// Accept accepts a connection to ln, a non-blocking listener that it borrows, and
// returns it and its descriptor's number, which is its owner's to know it by. The
// error is the bare errno. The caller must close FD.
func Accept(ln *FD) (c Nonblocking, number int, err error) {
	fd, ok := ln.acquire()
	if !ok {
		return c, -1, unix.EBADF
	}
	defer ln.release()
	// Not unix.Accept4: that asks for the peer's address, which has none.
	n, _, errno := unix.Syscall6(unix.SYS_ACCEPT4, uintptr(fd), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return c, -1, errno
	}
	return Nonblocking{FD: NewFD(int(n))}, int(n), nil
}

// Send is [Conn.Send], but where not all of b fits into the socket's buffer it
// returns [ErrWouldBlock], and a part may have been sent.
func (c Nonblocking) Send(b []byte, fds ...*FD) error {
	if len(b) == 0 {
		return nothingToSend(fds)
	}
	var few [fewFDs]int
	nums, err := numbers(few[:0], fds)
	defer func() { release(fds[:len(nums)]) }()
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	var space [64]byte
	oob := appendRights(space[:0], nums)
	fd, ok := c.FD.acquire()
	if !ok {
		return fmt.Errorf("send: %w", os.ErrClosed)
	}
	defer c.FD.release()
	n, errno := sendmsg(fd, b, oob)
	switch {
	case errno == unix.EAGAIN || errno == 0 && n < len(b):
		return ErrWouldBlock
	case errno != 0:
		return os.NewSyscallError("sendmsg", errno)
	}
	return nil
}

// Recv is [Conn.Recv] without descriptors, but where nothing has arrived it returns
// [ErrWouldBlock].
func (c Nonblocking) Recv(b []byte) (int, error) {
	fd, ok := c.FD.acquire()
	if !ok {
		return 0, os.ErrClosed
	}
	defer c.FD.release()
	n, _, flags, errno := recvmsg(fd, b, nil)
	if errno == unix.EAGAIN {
		return 0, ErrWouldBlock
	}
	n, _, err := received(n, nil, flags, errno, len(b), 0)
	return n, err
}

// Unread is [Conn.Unread].
func (c Nonblocking) Unread() (unread bool, err error) {
	cerr := c.FD.Control(func(fd uintptr) { unread, err = outq(fd) })
	return unread, errors.Join(cerr, err)
}

// SyscallConn returns c itself.
func (c Nonblocking) SyscallConn() (syscall.RawConn, error) { return c, nil }

// Control implements [syscall.RawConn].
func (c Nonblocking) Control(f func(fd uintptr)) error { return c.FD.Control(f) }

// Read implements [syscall.RawConn]. It calls f once.
func (c Nonblocking) Read(f func(fd uintptr) (done bool)) error {
	done := false
	if err := c.FD.Control(func(fd uintptr) { done = f(fd) }); err != nil {
		return err
	}
	if !done {
		return ErrWouldBlock
	}
	return nil
}

// Write implements [syscall.RawConn]. It calls f once.
func (c Nonblocking) Write(f func(fd uintptr) (done bool)) error { return c.Read(f) }
