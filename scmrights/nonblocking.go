//go:build linux

package scmrights

import (
	"errors"
	"fmt"
	"io"
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

// Send is [Conn.Send] without waiting: it sends the first n bytes of b. If n is less than
// len(b) the error says why; it is [ErrWouldBlock] if the socket's buffer is full. The
// descriptors were sent if n > 0, and not otherwise.
func (c Nonblocking) Send(b []byte, fds ...*FD) (n int, err error) {
	if len(b) == 0 {
		return 0, nothingToSend(fds)
	}
	var few [fewFDs]int
	nums, err := numbers(few[:0], fds)
	defer func() { release(fds[:len(nums)]) }()
	if err != nil {
		return 0, fmt.Errorf("send: %w", err)
	}
	var space [64]byte
	oob := appendRights(space[:0], nums)
	fd, ok := c.FD.acquire()
	if !ok {
		return 0, fmt.Errorf("send: %w", os.ErrClosed)
	}
	defer c.FD.release()
	n, errno := sendmsg(fd, b, oob)
	switch {
	case errno == unix.EAGAIN:
		return 0, ErrWouldBlock
	case errno != 0:
		return 0, os.NewSyscallError("sendmsg", errno)
	case n < len(b):
		return n, ErrWouldBlock
	}
	return n, nil
}

// Peek copies what has arrived into b, leaves it unread, and closes nothing. It reports
// whether the last message that it copied bytes of carries descriptors (earlier ones carry
// none); if b is full, that may also be any message behind it. If it reports false, a Recv
// of just n bytes drops no descriptor. Its errors are Recv's.
func (c Nonblocking) Peek(b []byte) (n int, descriptors bool, err error) {
	n, _, flags, err := c.receive(b, nil, unix.MSG_PEEK)
	if err == nil && n == 0 && len(b) > 0 {
		err = io.EOF
	}
	return n, flags&unix.MSG_CTRUNC != 0, err
}

// Recv is [Conn.Recv] without descriptors. If nothing has arrived it returns
// [ErrWouldBlock]. If descriptors come along, the kernel closes them, which may block.
func (c Nonblocking) Recv(b []byte) (int, error) {
	n, _, err := c.RecvFDs(b, 0)
	return n, err
}

// RecvFDs is [Conn.Recv], but if nothing has arrived it returns [ErrWouldBlock]. It may
// block if there are more than limit descriptors, because it closes them.
func (c Nonblocking) RecvFDs(b []byte, limit int) (n int, fds []*FD, err error) {
	var oob []byte
	if limit > 0 {
		oob = make([]byte, unix.CmsgSpace(4*limit))
	}
	n, oobn, flags, err := c.receive(b, oob, 0)
	if err != nil {
		return 0, nil, err
	}
	return received(n, oob[:oobn], flags, 0, len(b), limit)
}

// receive is recvmsg(2) with flags.
func (c Nonblocking) receive(b, oob []byte, flags int) (n, oobn, got int, err error) {
	fd, ok := c.FD.acquire()
	if !ok {
		return 0, 0, 0, os.ErrClosed
	}
	defer c.FD.release()
	n, oobn, got, errno := recvmsg(fd, b, oob, flags)
	switch errno {
	case 0:
		return n, oobn, got, nil
	case unix.EAGAIN:
		return 0, 0, 0, ErrWouldBlock
	default:
		return 0, 0, 0, os.NewSyscallError("recvmsg", errno)
	}
}

// ShutdownRead makes the peer's sends fail from now on. What has arrived before can still
// be read; after it comes [io.EOF].
func (c Nonblocking) ShutdownRead() (err error) {
	cerr := c.FD.Control(func(fd uintptr) { err = os.NewSyscallError("shutdown", unix.Shutdown(int(fd), unix.SHUT_RD)) })
	return errors.Join(cerr, err)
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
