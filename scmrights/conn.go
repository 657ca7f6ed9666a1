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
// descriptors than were asked for, or than this process may open, in which case the
// error is EMFILE as well. All of that message's descriptors have been closed.
var ErrTooMany = errors.New("scmrights: more descriptors than expected")

// noRoomError says that a message came with more descriptors than this process may open.
type noRoomError struct{}

func (noRoomError) Error() string { return unix.EMFILE.Error() + " (" + ErrTooMany.Error() + ")" }

// Unwrap returns both that it is.
func (noRoomError) Unwrap() []error { return []error{unix.EMFILE, ErrTooMany} }

// Conn sends and receives descriptors over a Unix stream socket that somebody
// else owns: a [net.UnixConn], or a [Stream]. One Send and one Recv may run at
// the same time; two of a kind may not.
//
// Its socket must not be read or written in any other way while descriptors may
// be coming: a plain read discards them.
type Conn struct {
	rc     syscall.RawConn
	stream *Stream // rc itself, where it is one: that needs no callback to wait for it
}

// NewConn returns a Conn on c, which it borrows. Deadlines set on c hold for
// Send and Recv too.
func NewConn(c syscall.Conn) (*Conn, error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	stream, _ := rc.(*Stream)
	return &Conn{rc: rc, stream: stream}, nil
}

// Send writes all of b. The descriptors, which it borrows, travel with b's first
// byte, so b must not be empty where there are any: the kernel would drop them.
func (c *Conn) Send(b []byte, fds ...*FD) error {
	if len(b) == 0 {
		return nothingToSend(fds)
	}
	if c.stream != nil && len(fds) == 0 {
		return c.stream.send(b)
	}
	return c.send(b, fds)
}

// send is Send by callback, which costs a few allocations.
func (c *Conn) send(b []byte, fds []*FD) error {
	nums, err := numbers(make([]int, 0, fewFDs), fds)
	defer func() { release(fds[:len(nums)]) }()
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	oob := appendRights(make([]byte, 0, 64), nums)
	var serr error
	err = c.rc.Write(func(fd uintptr) bool {
		for len(b) > 0 {
			n, errno := sendmsg(int(fd), b, oob)
			switch errno {
			case 0:
				b, oob = b[n:], nil
			case unix.EAGAIN:
				return false
			default:
				serr = os.NewSyscallError("sendmsg", errno)
				return true
			}
		}
		return true
	})
	return errors.Join(err, serr)
}

// nothingToSend is what sending no byte comes to.
func nothingToSend(fds []*FD) error {
	if len(fds) > 0 {
		return fmt.Errorf("send: %d descriptors need at least one byte to travel with", len(fds))
	}
	return nil
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
	if c.stream != nil {
		return c.stream.recv(b, limit)
	}
	return c.recv(b, limit)
}

// recv is Recv by callback, which costs a few allocations.
func (c *Conn) recv(b []byte, limit int) (n int, fds []*FD, err error) {
	var oob []byte
	if limit > 0 {
		oob = make([]byte, unix.CmsgSpace(4*limit))
	}
	oobn, flags := 0, 0
	var errno unix.Errno
	err = c.rc.Read(func(fd uintptr) bool {
		n, oobn, flags, errno = recvmsg(int(fd), b, oob, 0)
		return errno != unix.EAGAIN
	})
	if err != nil {
		return 0, nil, err
	}
	return received(n, oob[:oobn], flags, errno, len(b), limit)
}

// received turns what recvmsg has returned into what Recv returns, of which room
// is how many bytes there was room for.
func received(n int, oob []byte, flags int, errno unix.Errno, room, limit int) (int, []*FD, error) {
	if errno != 0 {
		return 0, nil, os.NewSyscallError("recvmsg", errno)
	}
	fds, err := parseRights(oob)
	switch {
	case err != nil:
	case flags&unix.MSG_CTRUNC != 0 && len(fds) < limit:
		err = noRoomError{}
	case flags&unix.MSG_CTRUNC != 0 || len(fds) > limit: // room for an odd number admits one more
		err = ErrTooMany
	case n == 0 && room > 0:
		err = io.EOF
	}
	if err != nil {
		CloseAll(fds)
		return 0, nil, err
	}
	return n, fds, nil
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
