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

// ErrWouldBlock is returned by operations on a [Nonblocking] that would have to wait.
var ErrWouldBlock = errors.New("scmrights: would block")

// Nonblocking is a non-blocking Unix stream socket. Its owner has a poller of its own, calls when the socket is ready,
// and closes FD. It implements [syscall.Conn] and [syscall.RawConn].
type Nonblocking struct {
	FD *FD
}

var (
	_ syscall.Conn    = Nonblocking{}
	_ syscall.RawConn = Nonblocking{}
)

// Accept accepts a connection to ln, a non-blocking listener that it borrows. It returns the connection, whose FD the
// caller must close, and the descriptor's number, by which an owner may know it. The error is the bare errno.
func Accept(ln *FD) (c Nonblocking, number int, err error) {
	fd, ok := ln.acquire()
	if !ok {
		return c, -1, unix.EBADF
	}
	defer ln.release()
	// unix.Accept4 also asks for the peer's address, and there is none.
	n, _, errno := unix.Syscall6(unix.SYS_ACCEPT4, uintptr(fd), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return c, -1, errno
	}
	return Nonblocking{FD: NewFD(int(n))}, int(n), nil
}

// Send is [Conn.Send] without waiting: it sends the first n bytes of b. If n is less than len(b) the error says why; it
// is [ErrWouldBlock] if the socket's buffer is full. The descriptors were sent if n > 0, and not otherwise.
func (c Nonblocking) Send(b []byte, fds ...*FD) (n int, err error) {
	if len(b) == 0 {
		return 0, nothingToSend(fds)
	}
	fd, ok := c.FD.acquire()
	if !ok {
		return 0, fmt.Errorf("send: %w", os.ErrClosed)
	}
	defer c.FD.release()
	if n, err = send(fd, b, fds); err == nil && n < len(b) {
		err = ErrWouldBlock
	}
	return n, err
}

// Peek copies what has arrived into b, leaves it unread, and closes nothing. It reports whether the last message that
// it copied bytes of carries descriptors (earlier ones carry none); if b is full, that may also be any message behind
// it. If it reports false, a Recv of just n bytes drops no descriptor. Its errors are Recv's.
func (c Nonblocking) Peek(b []byte) (n int, descriptors bool, err error) {
	fd, ok := c.FD.acquire()
	if !ok {
		return 0, false, os.ErrClosed
	}
	defer c.FD.release()
	n, _, flags, errno := recvmsg(fd, b, nil, unix.MSG_PEEK)
	switch {
	case errno == unix.EAGAIN:
		return 0, false, ErrWouldBlock
	case errno != 0:
		return 0, false, os.NewSyscallError("recvmsg", errno)
	case n == 0 && len(b) > 0:
		return 0, false, io.EOF
	}
	return n, flags&unix.MSG_CTRUNC != 0, nil
}

// Recv is [Conn.Recv] without descriptors. If nothing has arrived it returns
// [ErrWouldBlock]. If descriptors come along the kernel closes them, which may block.
func (c Nonblocking) Recv(b []byte) (int, error) {
	n, _, err := c.RecvFDs(b, 0)
	return n, err
}

// RecvFDs is [Conn.Recv], but if nothing has arrived it returns [ErrWouldBlock]. It may block
// if more than limit descriptors come along, because it closes them.
func (c Nonblocking) RecvFDs(b []byte, limit int) (n int, fds []*FD, err error) {
	fd, ok := c.FD.acquire()
	if !ok {
		return 0, nil, os.ErrClosed
	}
	defer c.FD.release()
	return receive(fd, b, limit)
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
