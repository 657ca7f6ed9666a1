//go:build linux

package scmrights

import (
	"errors"
	"fmt"
	"syscall"
)

// MaxFDs is the most descriptors that one message can carry: the kernel's SCM_MAX_FD
// (unix(7)). With one more, sendmsg fails.
const MaxFDs = 253

// ErrTooMany is returned by [Conn.Recv] if a message came with more descriptors than it was asked for, or than this
// process may open; then the error is EMFILE as well. All descriptors of that message have been closed.
var ErrTooMany = errors.New("scmrights: more descriptors than expected")

// Conn sends and receives descriptors over a Unix stream socket in the runtime's poller, such as a [net.UnixConn]. It
// does not own the socket. One Send and one Recv may run at the same time, but not two of a kind.
//
// Its socket must not be read in any other way while descriptors may come, because a plain read drops them.
type Conn struct{ rc syscall.RawConn }

// NewConn returns a Conn on c, which it borrows. Deadlines set on c hold for Send and Recv too.
func NewConn(c syscall.Conn) (*Conn, error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &Conn{rc}, nil
}

// Send writes all of b. The descriptors, which it borrows, travel with b's first byte. So b
// must not be empty if there are any: the kernel would drop them.
func (c *Conn) Send(b []byte, fds ...*FD) error {
	if len(b) == 0 {
		return nothingToSend(fds)
	}
	var serr error
	err := c.rc.Write(func(fd uintptr) bool {
		b, fds, serr = sendAll(int(fd), b, fds)
		return serr != ErrWouldBlock
	})
	return errors.Join(err, serr)
}

// nothingToSend returns the error of sending no byte.
func nothingToSend(fds []*FD) error {
	if len(fds) > 0 {
		return fmt.Errorf("send: %d descriptors need at least one byte to travel with", len(fds))
	}
	return nil
}

// Recv reads into b and returns the descriptors that came along, at most limit; the caller
// must close them. At the end of the stream the error is [io.EOF].
//
// One Recv never returns bytes from beyond the end of a Send that carried descriptors, nor the descriptors of two
// Sends; bytes of earlier Sends without descriptors may stand in front (unix(7)).
//
// With limit 0 this process never has a descriptor: the kernel drops them, and Recv returns [ErrTooMany].
func (c *Conn) Recv(b []byte, limit int) (n int, fds []*FD, err error) {
	rerr := c.rc.Read(func(fd uintptr) bool {
		n, fds, err = receive(int(fd), b, limit)
		return err != ErrWouldBlock
	})
	if rerr != nil {
		return 0, nil, rerr
	}
	return n, fds, err
}
