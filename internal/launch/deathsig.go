//go:build linux

package launch

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// parentDeathSignal returns the signal that the calling thread gets when the
// process's parent dies, or 0. A caller sets it before it execs fdclient; it
// survives that, but belongs to the main thread alone (PR_SET_PDEATHSIG(2const)).
func parentDeathSignal() int {
	var sig int32
	_, _, errno := unix.Syscall(unix.SYS_PRCTL, unix.PR_GET_PDEATHSIG, uintptr(unsafe.Pointer(&sig)), 0)
	if errno != 0 {
		return 0
	}
	return int(sig)
}

// setParentDeathSignal gives the calling thread that signal. Should the parent
// have died before, then the thread that had the signal got it.
func setParentDeathSignal(sig int) error {
	if sig == 0 {
		return nil
	}
	return os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(sig), 0, 0, 0))
}
