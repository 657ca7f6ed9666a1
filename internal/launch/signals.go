package launch

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sigaction is at least as large as the kernel's struct sigaction of any architecture. That
// begins with the handler; zero is SIG_DFL without flags and with an empty mask.
type sigaction [8]uintptr

const sigIgn = 1

func setAction(signal syscall.Signal, to, was *sigaction) error {
	const maskSize = 8
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(signal),
		uintptr(unsafe.Pointer(to)), uintptr(unsafe.Pointer(was)), maskSize, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("rt_sigaction", errno)
	}
	return nil
}

// DefaultSignal gives the signal of that name, without "SIG", its default action, which for most ends the process. The
// Go runtime ignores many, such as SIGUSR1, so a signal for the command would have no effect before the exec.
func DefaultSignal(name string) error {
	return setAction(unix.SignalNum("SIG"+name), new(sigaction), nil)
}

// ignore makes this process ignore p.Ignored, if any, until restore is called. The Go runtime does not know, so that
// its handler is there again after restore. A signal that has arrived before always finds a process that handles it or
// ignores it.
func (p *Program) ignore() (restore func()) {
	var old sigaction
	if p.Ignored == 0 || setAction(p.Ignored, &sigaction{sigIgn}, &old) != nil {
		return func() {}
	}
	return func() { _ = setAction(p.Ignored, &old, nil) }
}

// hold blocks p.Held, if any, in the calling thread, whose mask the program inherits.
func (p *Program) hold() error {
	if p.Held == 0 {
		return nil
	}
	var set unix.Sigset_t
	set.Val[(p.Held-1)/64] |= 1 << ((p.Held - 1) % 64)
	return os.NewSyscallError("sigprocmask", unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil))
}

// parentDeathSignal returns the signal that the calling thread gets when the process's parent dies, or 0. A caller that
// sets it before it executes fdclient sets it for the main thread alone (PR_SET_PDEATHSIG(2const)).
func parentDeathSignal() int {
	var sig int32
	// If it fails, sig stays 0.
	_, _, _ = unix.Syscall(unix.SYS_PRCTL, unix.PR_GET_PDEATHSIG, uintptr(unsafe.Pointer(&sig)), 0)
	return int(sig)
}

// setParentDeathSignal gives the calling thread that signal. If the parent has died before,
// the thread that had the signal got it.
func setParentDeathSignal(sig int) error {
	if sig == 0 {
		return nil
	}
	return os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(sig), 0, 0, 0))
}
