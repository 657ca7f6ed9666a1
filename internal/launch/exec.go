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

// Exec replaces this process by the program. It returns only on failure. Then all descriptors
// are as before, but the soft RLIMIT_NOFILE may be that of the caller of this process.
//
// Other goroutines may run meanwhile, and open and close descriptors. Only the sockets, which
// Exec borrows, must stay open until it returns.
//
// A text without "#!" that is executable is run by /bin/sh, as execvp(3) does.
func (p *Program) Exec() error {
	sig := parentDeathSignal()
	defer stopCollector()()
	return onOwnThread(func() error {
		if err := setParentDeathSignal(sig); err != nil {
			return err
		}
		return p.replace()
	})
}

// ExecOnThread is Exec on the calling thread, to which the goroutine must be locked. If it fails, the process must report
// that and end, without the runtime's poller, and so without [os.Open]: the thread has a descriptor table of its own. It
// takes 4 % off a get's time, because no other thread takes over.
func (p *Program) ExecOnThread() error {
	defer stopCollector()()
	return p.replace()
}

// stopCollector prevents garbage collections until restart is called. syscall.Exec allocates
// memory, and a thread that begins or ends a collection uses the runtime's poller
// (runtime.startTheWorldWithSema), whose descriptor may have been moved.
func stopCollector() (restart func()) {
	percent := debug.SetGCPercent(-1) // waits for a running collection
	limit := debug.SetMemoryLimit(math.MaxInt64)
	return func() {
		debug.SetMemoryLimit(limit)
		debug.SetGCPercent(percent)
	}
}

// onOwnThread calls f on a thread that ends when f returns. So f may give the thread a
// descriptor table of its own, because no other goroutine ever runs with that. The main
// thread will not do: it never ends, and /proc/PID/fd shows its table.
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

// replace is Exec on a thread, to which it gives a descriptor table of its own. In the table
// that the threads share, the runtime has descriptors of its own from 3 up, opened before main.
func (p *Program) replace() error {
	if err := leaveTable(); err != nil {
		return err
	}
	if err := p.hold(); err != nil {
		return err
	}
	defer p.ignore()()
	undo, err := p.place()
	if err != nil {
		return err
	}
	defer undo() // for the scheduler, which may run once more before this thread ends
	// syscall.Exec waits for threads that are being made, and restores the soft RLIMIT_NOFILE
	// that package os has raised.
	err = syscall.Exec(p.path, p.argv, p.env)
	if err == unix.ENOEXEC && !isBinary(head(p.path)) {
		argv := append([]string{shell, p.path}, p.argv[1:]...)
		err = syscall.Exec(shell, argv, p.env)
		return notRunnable(p.path, err, "it has no \"#!\" line, and "+shell+" cannot be run: "+err.Error())
	}
	return explain(p.path, err)
}

// leaveTable gives the calling thread a copy of the descriptor table that the threads share.
// Neither call needs a privilege, but some seccomp profiles forbid unshare altogether, to
// prevent namespaces. The close_range (Linux 5.9) closes nothing.
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
