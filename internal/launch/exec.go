//go:build linux

package launch

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"
)

// Exec replaces this process by the program. It returns only on failure, and then
// the caller should tell, and exit: all descriptors are as they were, but the soft
// RLIMIT_NOFILE may have been lowered to the caller's already.
//
// Other goroutines may run, and open and close descriptors, all the while. Only
// those of the sockets, which Exec borrows, must stay open until it returns.
//
// A file that is executable but of no format that the kernel knows is run by
// /bin/sh, as execvp(3) does, if it is text.
func (p *Program) Exec() error {
	sig := parentDeathSignal()
	defer stopCollector()()
	return onOwnThread(func() error { return p.replace(sig) })
}

// stopCollector keeps garbage collections from beginning until its result is
// called. The thread that begins or ends one looks into the runtime's poller
// (runtime.startTheWorldWithSema), and syscall.Exec allocates memory.
func stopCollector() (restart func()) {
	percent := debug.SetGCPercent(-1) // waits for one that is under way
	limit := debug.SetMemoryLimit(math.MaxInt64)
	return func() {
		debug.SetMemoryLimit(limit)
		debug.SetGCPercent(percent)
	}
}

// onOwnThread calls f on a thread that ends when f returns, and so may leave the
// descriptor table that the process's threads share: nothing else ever runs in the
// one that f made. It is never the main thread, which would stay, and whose table
// is the one in /proc/PID/fd.
func onOwnThread(f func() error) error {
	runtime.LockOSThread() // not on this one
	defer runtime.UnlockOSThread()
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			err := onOwnThread(f)
			runtime.UnlockOSThread()
			result <- err
			return
		}
		result <- f() // not unlocked: the thread ends with its goroutine
	}()
	return <-result
}

// replace does what Exec does, on a thread of its own, since placing descriptors
// at 3 and up in the table that all threads share breaks the runtime, which keeps
// its own there from before main on.
func (p *Program) replace(parentDeath int) error {
	if err := leaveTable(); err != nil {
		return err
	}
	if err := setParentDeathSignal(parentDeath); err != nil {
		return err
	}
	return p.become()
}

// become makes the program of this process, on the calling thread and in its
// descriptor table, or puts everything back.
func (p *Program) become() error {
	if err := p.hold(); err != nil {
		return err
	}
	defer p.ignore()()
	undo, err := p.place()
	if err != nil {
		return err
	}
	defer undo() // for the scheduler, if it only runs once more as this thread ends
	// Not a bare execve: syscall.Exec waits for threads that are being made, and
	// restores the soft RLIMIT_NOFILE that the os package raised.
	err = syscall.Exec(p.path, p.argv, p.env)
	if err == unix.ENOEXEC && !isBinary(head(p.path)) {
		argv := append([]string{shell, p.path}, p.argv[1:]...)
		err = syscall.Exec(shell, argv, p.env)
		return notRunnable(p.path, err, "it has no \"#!\" line, and "+shell+" cannot be run: "+err.Error())
	}
	return explain(p.path, err)
}

// shell runs files that have no "#!" line: _PATH_BSHELL of execvp(3).
const shell = "/bin/sh"

// leaveTable gives the calling thread a descriptor table of its own, a copy of
// the one that the process's threads share. Neither way needs a privilege, but
// seccomp profiles that keep processes from making namespaces forbid unshare
// as a whole. The close_range (Linux 5.9) closes nothing.
func leaveTable() error {
	uerr := unix.Unshare(unix.CLONE_FILES)
	if uerr == nil {
		return nil
	}
	const none = uint(^uint32(0))
	cerr := unix.CloseRange(none, none, unix.CLOSE_RANGE_UNSHARE)
	if cerr == nil {
		return nil
	}
	return fmt.Errorf("no descriptor table of our own to place the sockets in: %w, %w; a seccomp profile must allow unshare or close_range",
		os.NewSyscallError("unshare", uerr), os.NewSyscallError("close_range", cerr))
}
