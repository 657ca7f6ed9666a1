//go:build linux

package broker

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/scmrights"
)

// control calls use with the descriptor of conn, a socket of the net package.
func control(conn any, use func(fd int) error) error {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return errors.ErrUnsupported
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	var uerr error
	err = rc.Control(func(fd uintptr) { uerr = use(int(fd)) })
	return errors.Join(err, uerr)
}

// same reports whether fd is the socket of conn.
func same(conn any, fd *scmrights.FD) bool {
	var is, was uint64
	cookie := func(n int) (c uint64, err error) {
		c, err = unix.GetsockoptUint64(n, unix.SOL_SOCKET, unix.SO_COOKIE)
		return c, os.NewSyscallError("getsockopt", err)
	}
	var err error
	ferr := fd.Control(func(n uintptr) { is, err = cookie(int(n)) })
	cerr := control(conn, func(n int) (err error) {
		was, err = cookie(n)
		return err
	})
	return errors.Join(ferr, err, cerr) == nil && is == was
}

// dup returns a duplicate of the socket of conn, which the caller must close.
func dup(conn any) (*scmrights.FD, error) {
	var d int
	err := control(conn, func(n int) (err error) {
		d, err = unix.FcntlInt(uintptr(n), unix.F_DUPFD_CLOEXEC, 0)
		return os.NewSyscallError("fcntl", err)
	})
	if err != nil {
		return nil, err
	}
	return scmrights.NewFD(d), nil
}
