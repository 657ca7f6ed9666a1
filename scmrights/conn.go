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

// MaxFDs is the most descriptors that one message can carry: the kernel's
// SCM_MAX_FD (unix(7)). With one more, sendmsg fails.
const MaxFDs = 253

// ErrTooMany is returned by [Conn.Recv] when a message came with more
// descriptors than were asked for, or than this process may open. All of that
// message's descriptors have been closed.
var ErrTooMany = errors.New("scmrights: more descriptors than expected")

// Conn sends and receives descriptors over a Unix stream socket that somebody
// else owns: a [net.UnixConn], or a [Stream]. One Send and one Recv may run at
// the same time; two of a kind may not.
//
// Its socket must not be read or written in any other way while descriptors may
// be coming: a plain read discards them.
type Conn struct {
	rc syscall.RawConn
}

// NewConn returns a Conn on c, which it borrows. Deadlines set on c hold for
// Send and Recv too.
func NewConn(c syscall.Conn) (*Conn, error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &Conn{rc: rc}, nil
}

// Send writes all of b. The descriptors, which it borrows, travel with b's first
// byte, so b must not be empty where there are any: the kernel would drop them.
func (c *Conn) Send(b []byte, fds ...*FD) error {
	if len(b) == 0 {
		if len(fds) > 0 {
			return fmt.Errorf("send: %d descriptors need at least one byte to travel with", len(fds))
		}
		return nil
	}
	nums := make([]int, 0, 8)
	defer func() {
		for _, f := range fds[:len(nums)] {
			f.release()
		}
	}()
	for _, f := range fds {
		n, ok := f.acquire()
		if !ok {
			return fmt.Errorf("send: %w", os.ErrClosed)
		}
		nums = append(nums, n)
	}
	var oob []byte
	if len(nums) > 0 {
		oob = unix.UnixRights(nums...)
	}
	var serr error
	err := c.rc.Write(func(fd uintptr) bool {
		for len(b) > 0 {
			n, err := unix.SendmsgN(int(fd), b, oob, nil, unix.MSG_NOSIGNAL)
			switch err {
			case nil:
				b, oob = b[n:], nil
			case unix.EINTR:
			case unix.EAGAIN:
				return false
			default:
				serr = os.NewSyscallError("sendmsg", err)
				return true
			}
		}
		return true
	})
	return errors.Join(err, serr)
}

// Recv reads into b and returns the descriptors that came along, at most limit;
// the caller must close them. At the end of the stream the error is [io.EOF].
//
// One Recv never returns bytes from beyond the end of a Send that carried
// descriptors, nor the descriptors of two Sends; bytes of earlier Sends without
// descriptors may stand in front (unix(7)).
//
// With limit 0 no descriptor is even installed in this process: the kernel
// drops them, and Recv returns [ErrTooMany].
func (c *Conn) Recv(b []byte, limit int) (n int, fds []*FD, err error) {
	var oob []byte
	if limit > 0 {
		oob = make([]byte, unix.CmsgSpace(4*limit))
	}
	oobn, flags := 0, 0
	var rerr error
	err = c.rc.Read(func(fd uintptr) bool {
		for {
			n, oobn, flags, _, rerr = unix.Recvmsg(int(fd), b, oob, unix.MSG_CMSG_CLOEXEC)
			if rerr != unix.EINTR {
				return rerr != unix.EAGAIN
			}
		}
	})
	if err != nil {
		return 0, nil, err
	}
	if rerr != nil {
		return 0, nil, os.NewSyscallError("recvmsg", rerr)
	}
	fds, err = parseRights(oob[:oobn])
	switch {
	case err != nil:
	case flags&unix.MSG_CTRUNC != 0 || len(fds) > limit: // room for an odd number admits one more
		err = ErrTooMany
	case n == 0 && len(b) > 0:
		err = io.EOF
	}
	if err != nil {
		CloseAll(fds)
		return 0, nil, err
	}
	return n, fds, nil
}

// parseRights returns every descriptor that it can find in oob, also where it
// returns an error: they are open in this process already.
func parseRights(oob []byte) (fds []*FD, err error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, os.NewSyscallError("parse control message", err)
	}
	for _, m := range msgs {
		if m.Header.Level != unix.SOL_SOCKET || m.Header.Type != unix.SCM_RIGHTS {
			continue
		}
		nums, perr := unix.ParseUnixRights(&m)
		if perr != nil {
			err = os.NewSyscallError("parse control message", perr)
			continue
		}
		for _, n := range nums {
			fds = append(fds, NewFD(n))
		}
	}
	return fds, err
}

// Unread reports whether the peer has yet to read anything that was sent to it.
func (c *Conn) Unread() (bool, error) {
	unread := false
	var ierr error
	err := c.rc.Control(func(fd uintptr) { unread, ierr = outq(fd) })
	return unread, errors.Join(err, ierr)
}

// WaitRead blocks until the peer has read all that was sent to it, or has gone.
// It needs a socket of the runtime's poller, where it honours the write
// deadline; the kernel wakes it, it does not poll.
func (c *Conn) WaitRead() error {
	var ierr error
	err := c.rc.Write(func(fd uintptr) bool {
		unread := false
		unread, ierr = outq(fd)
		return ierr != nil || !unread
	})
	return errors.Join(err, ierr)
}

// outq reports whether bytes that were sent on fd wait in the peer's queue. The
// kernel counts the memory they occupy (SIOCOUTQ, unix(7)), at least 512 a message;
// while it wakes a waiter it may still count the last byte of a message that
// has just been read, hence the margin.
func outq(fd uintptr) (bool, error) {
	n, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
	return n > 256, os.NewSyscallError("ioctl", err)
}
