// Package peer knows which process is at the other end of a connection, and when that process ends: its credentials, a
// pidfd of it, and an identity that no later process with the same pid shares.
//
// It reads socket options and /proc, opens pidfds, and sends a process the signal that
// its user has chosen. It must never read from or write to a connection, decide on
// a user's rights, or act on a pid if a pidfd of the process can be had.
package peer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// OverflowID is the uid or gid that the kernel shows instead of one that does not exist in
// this process's user namespace (user_namespaces(7)). It may stand for any user.
const OverflowID = 65534

// Conn is a connected Unix socket, which the functions of this package borrow: a
// [syscall.RawConn] or a [*scmrights.FD].
type Conn interface {
	Control(use func(fd uintptr)) error
}

// Credentials are those of a connection's other end at the time of connect(2).
type Credentials struct {
	PID      int // 0 if it is not visible from this pid namespace
	UID, GID uint32
}

// Of returns the credentials of the process that connected (SO_PEERCRED).
func Of(c Conn) (cred Credentials, err error) {
	cerr := c.Control(func(fd uintptr) {
		var u *unix.Ucred
		if u, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			cred = Credentials{int(u.Pid), u.Uid, u.Gid}
		}
	})
	return cred, errors.Join(cerr, os.NewSyscallError("getsockopt", err))
}

// Groups returns the groups of the process that connected: the primary one, and the supplementary ones if the kernel
// tells them (SO_PEERGROUPS, Linux 4.13).
func Groups(c Conn, primary uint32) []uint32 {
	groups, size := []uint32{primary}, uint32(4*64)
	_ = c.Control(func(fd uintptr) {
		for errno := unix.ERANGE; errno == unix.ERANGE; { // then size is that of the groups
			more := make([]uint32, size/4)
			_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
				uintptr(unsafe.Pointer(unsafe.SliceData(more))), uintptr(unsafe.Pointer(&size)), 0)
			if errno == 0 {
				groups = append(groups, more[:size/4]...)
			}
		}
	})
	return groups
}

// SameUser reports whether c and d are the same user, and one that the broker can tell from others.
func (c Credentials) SameUser(d Credentials) bool { return c.UID == d.UID && c.UID != OverflowID }

// mayKill returns nil if the user of c may send signals to its process: if that has the user as its real or its saved
// user id (kill(2)).
func (c Credentials) mayKill() error {
	if c.UID == 0 {
		return nil
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.PID))
	if err != nil {
		return err
	}
	_, line, _ := bytes.Cut(b, []byte("\nUid:"))
	line, _, _ = bytes.Cut(line, []byte("\n"))
	var real, effective, saved uint32
	if _, err := fmt.Sscan(string(line), &real, &effective, &saved); err != nil {
		return err
	}
	if c.UID != real && c.UID != saved {
		return ErrNotAllowed
	}
	return nil
}
