//go:build linux

package scmrights

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// ErrWouldBlock is returned by operations on a [Nonblocking] that would have to wait.
var ErrWouldBlock = errors.New("scmrights: would block")

// Nonblocking is a non-blocking Unix stream socket. Its owner has a poller of its own, calls when the socket is ready,
// and closes it.
type Nonblocking struct{ *FD }

// Accept accepts a connection to ln, a non-blocking listener that it borrows. It returns the connection, which the
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
	return Nonblocking{NewFD(int(n))}, int(n), nil
}

// Send is [Conn.Send] without waiting: it sends the first n bytes of b. If n is less than len(b) the error says why; it
// is [ErrWouldBlock] if the socket's buffer is full. The descriptors were sent if n > 0, and not otherwise.
func (c Nonblocking) Send(b []byte, fds ...*FD) (n int, err error) {
	if len(b) == 0 {
		return 0, nothingToSend(fds)
	}
	fd, ok := c.acquire()
	if !ok {
		return 0, fmt.Errorf("send: %w", os.ErrClosed)
	}
	defer c.release()
	if n, err = send(fd, b, fds); err == nil && n < len(b) {
		err = ErrWouldBlock
	}
	return n, err
}

// Peek copies what has arrived into b, leaves it unread, and closes nothing. It reports whether the last message that
// it copied bytes of carries descriptors (earlier ones carry none); if b is full, that may also be any message behind
// it. If it reports false, a Recv of just n bytes drops no descriptor. Its errors are Recv's.
func (c Nonblocking) Peek(b []byte) (n int, descriptors bool, err error) {
	fd, ok := c.acquire()
	if !ok {
		return 0, false, os.ErrClosed
	}
	defer c.release()
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

// Recv is [Conn.Recv], but if nothing has arrived it returns [ErrWouldBlock]. It may block if more than limit
// descriptors come along, because they are closed.
func (c Nonblocking) Recv(b []byte, limit int) (n int, fds []*FD, err error) {
	fd, ok := c.acquire()
	if !ok {
		return 0, nil, os.ErrClosed
	}
	defer c.release()
	return receive(fd, b, limit)
}

// ShutdownRead makes the peer's sends fail from now on. What has arrived before can still
// be read; after it comes [io.EOF].
func (c Nonblocking) ShutdownRead() (err error) {
	cerr := c.Control(func(fd uintptr) { err = os.NewSyscallError("shutdown", unix.Shutdown(int(fd), unix.SHUT_RD)) })
	return errors.Join(cerr, err)
}

// Unread reports whether the peer has not read yet all that was sent to it. The kernel counts the memory that this
// occupies (SIOCOUTQ, unix(7)), at least 512 bytes a message. While it wakes a waiter it may still count the last byte
// of a message that was just read, hence the margin.
func (c Nonblocking) Unread() (unread bool, err error) {
	cerr := c.Control(func(fd uintptr) {
		var n int
		n, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
		unread, err = n > 256, os.NewSyscallError("ioctl", err)
	})
	return unread, errors.Join(cerr, err)
}
