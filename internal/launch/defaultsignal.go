//go:build linux

package launch

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// DefaultSignal makes the signal of that name, without "SIG", do what it does by
// default, which for most is to end the process, instead of what the Go runtime makes
// of it. That ignores many, such as SIGUSR1: one that was meant for the command, and
// comes before that is executed, would be lost.
func DefaultSignal(name string) error {
	var action [4]uint64 // struct sigaction of all architectures: SIG_DFL, no flags, an empty mask
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SignalNum("SIG"+name)), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("rt_sigaction", errno)
	}
	return nil
}
