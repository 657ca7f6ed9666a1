//go:build linux

package launch

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Ignore makes the program begin with a signal ignored. Of one that is a Go program only
// SIGHUP and SIGINT stay so, until it asks for them.
func (p *Program) Ignore(signal syscall.Signal) { p.ignored = signal }

// action is at least as large as the kernel's struct sigaction, which begins with the
// handler.
type action [8]uintptr

// ignore makes this process ignore the signal, if any, until its result is called. The
// runtime is not told: whoever is notified of it is again then, and one that has arrived
// already does not find a process that neither handles nor ignores it.
func (p *Program) ignore() (restore func()) {
	const ignored = 1 // SIG_IGN
	var old action
	if p.ignored == 0 || setAction(p.ignored, &action{ignored}, &old) != 0 {
		return func() {}
	}
	return func() { setAction(p.ignored, &old, nil) }
}

func setAction(signal syscall.Signal, to, was *action) unix.Errno {
	const maskSize = 8
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(signal),
		uintptr(unsafe.Pointer(to)), uintptr(unsafe.Pointer(was)), maskSize, 0, 0)
	return errno
}
