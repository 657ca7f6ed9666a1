package fdtest

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Refused is a system call that Refuse makes fail.
type Refused struct {
	Call uint32
	// Args are what the first arguments have to be, by their low 32 bits; -1: anything.
	Args  []int64
	Errno unix.Errno // 0: EPERM
}

// Refuse makes system calls fail in every thread of this process from now on, as a container's seccomp profile does, or
// an older kernel. It is for helper processes, because nothing takes it back. Never call it in a loop: programs that
// come and go fast can lock up the kernel.
func Refuse(calls ...Refused) error {
	if len(calls) == 0 {
		return nil
	}
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ret   = unix.BPF_RET | unix.BPF_K

		number, firstArg = 0, 16 // of struct seccomp_data; the low half of an argument comes first
	)
	var filter []unix.SockFilter
	for _, c := range calls {
		errno := c.Errno
		if errno == 0 {
			errno = unix.EPERM
		}
		left := uint8(1) // instructions behind a comparison that belong to c
		for _, arg := range c.Args {
			if arg >= 0 {
				left += 2
			}
		}
		filter = append(filter, unix.SockFilter{Code: load, K: number}, unix.SockFilter{Code: equal, K: c.Call, Jf: left})
		for i, arg := range c.Args {
			if arg >= 0 {
				left -= 2
				filter = append(filter, unix.SockFilter{Code: load, K: uint32(firstArg + 8*i)},
					unix.SockFilter{Code: equal, K: uint32(arg), Jf: left})
			}
		}
		filter = append(filter, unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(errno)})
	}
	filter = append(filter, unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW})
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	// TSYNC gives the filter, and no_new_privs, to the other threads as well.
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	return nil
}

// NoDiag is the call by which sock_diag(7) is asked. It fails as on a kernel without.
func NoDiag() Refused {
	return Refused{unix.SYS_SOCKET, []int64{unix.AF_NETLINK, unix.SOCK_RAW | unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG}, unix.EPROTONOSUPPORT}
}
