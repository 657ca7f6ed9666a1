//go:build linux

package scmrights

import (
	"errors"
	"syscall"
)

// ErrWouldBlock is what operations on a [Nonblocking] return instead of waiting.
var ErrWouldBlock = errors.New("scmrights: would block")

// Nonblocking is a non-blocking Unix stream socket that nothing waits on: its owner
// has a poller of its own, and calls when there is something to do. It
// implements [syscall.Conn] and [syscall.RawConn], so that [NewConn] accepts
// it; closing FD is the owner's business.
type Nonblocking struct {
	FD *FD
}

var (
	_ syscall.Conn    = Nonblocking{}
	_ syscall.RawConn = Nonblocking{}
)

// SyscallConn returns n itself.
func (n Nonblocking) SyscallConn() (syscall.RawConn, error) { return n, nil }

// Control implements [syscall.RawConn].
func (n Nonblocking) Control(f func(fd uintptr)) error { return n.FD.Control(f) }

// Read implements [syscall.RawConn]. It calls f once.
func (n Nonblocking) Read(f func(fd uintptr) (done bool)) error {
	done := false
	if err := n.FD.Control(func(fd uintptr) { done = f(fd) }); err != nil {
		return err
	}
	if !done {
		return ErrWouldBlock
	}
	return nil
}

// Write implements [syscall.RawConn]. It calls f once; a Send that returns
// [ErrWouldBlock] may have sent a part.
func (n Nonblocking) Write(f func(fd uintptr) (done bool)) error { return n.Read(f) }
