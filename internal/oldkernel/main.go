// Command oldkernel runs a command, for tests, on what looks like Linux 5.10: a seccomp filter answers as that kernel
// does to what came later. All that the command starts has the filter too.
//
//	go run ./internal/oldkernel go test -count=1 ./...
package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: oldkernel COMMAND [ARGUMENT...]")
		os.Exit(2)
	}
	path, err := exec.LookPath(os.Args[1])
	if err == nil {
		err = run(path, os.Args[1:])
	}
	fmt.Fprintln(os.Stderr, "oldkernel:", err)
	os.Exit(1)
}

// run becomes the program. The filter is that of the calling thread, which is the one that exec keeps.
func run(path string, argv []string) error {
	program, err := filter()
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	err = install(program)
	if err == unix.EACCES { // without CAP_SYS_ADMIN set-user-ID programs must have no effect
		if err = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err == nil {
			err = install(program)
		}
	}
	if err != nil {
		return os.NewSyscallError("seccomp", err)
	}
	return syscall.Exec(path, argv, os.Environ())
}

func install(program []unix.SockFilter) error {
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		return errno
	}
	return nil
}
