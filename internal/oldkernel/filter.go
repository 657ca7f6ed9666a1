package main

import (
	"errors"
	"runtime"

	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data of the call's number, of the architecture, and of the low halves of arguments.
const (
	call, arch       = 0, 4
	arg1, arg2, arg4 = 24, 32, 48
)

// How a test compares.
const (
	is      = unix.BPF_JEQ
	atLeast = unix.BPF_JGE
	has     = unix.BPF_JSET // one of the bits
)

type test struct {
	at      uint32
	compare uint16
	with    uint32
}

// A rule gives the error to calls that pass all its tests.
type rule struct {
	err   unix.Errno
	tests []test
}

// hidden is what Linux 5.10 does not know. The last system call that it has is process_madvise, the last socket option
// SO_DETACH_REUSEPORT_BPF. It has fstatfs and name_to_handle_at, but that is how programs find out whether there is a
// pidfs (6.9), and what number a process has there (6.14).
var hidden = []rule{
	{unix.ENOSYS, []test{{call, atLeast, unix.SYS_PROCESS_MADVISE + 1}}},
	{unix.ENOSYS, []test{{call, is, unix.SYS_FSTATFS}}},
	{unix.EOPNOTSUPP, []test{{call, is, unix.SYS_NAME_TO_HANDLE_AT}, {arg4, has, unix.AT_EMPTY_PATH}}},
	{unix.ENOPROTOOPT, []test{{call, is, unix.SYS_GETSOCKOPT}, {arg1, is, unix.SOL_SOCKET}, {arg2, atLeast, unix.SO_DETACH_REUSEPORT_BPF + 1}}},
	{unix.ENOPROTOOPT, []test{{call, is, unix.SYS_SETSOCKOPT}, {arg1, is, unix.SOL_SOCKET}, {arg2, atLeast, unix.SO_DETACH_REUSEPORT_BPF + 1}}},
	{unix.EINVAL, []test{{call, is, unix.SYS_MEMFD_CREATE}, {arg1, has, unix.MFD_NOEXEC_SEAL | unix.MFD_EXEC}}}, // 6.3
	{unix.EINVAL, []test{{call, is, unix.SYS_CLOSE_RANGE}, {arg2, has, unix.CLOSE_RANGE_CLOEXEC}}},              // 5.11
	{unix.EINVAL, []test{{call, is, unix.SYS_PIDFD_OPEN}, {arg1, has, unix.PIDFD_THREAD}}},                      // 6.9
}

// filter returns the rules as a program. It lets through the calls of other architectures' programs.
func filter() ([]unix.SockFilter, error) {
	const ret = unix.BPF_RET | unix.BPF_K
	native, known := map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]
	if !known {
		return nil, errors.New("only for amd64 and arm64")
	}
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: arch},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: native, Jt: 1},
		{Code: ret, K: unix.SECCOMP_RET_ALLOW},
	}
	for _, r := range hidden {
		for i, t := range r.tests {
			next := uint8(2*(len(r.tests)-i) - 1) // beyond the tests that are left, and the return
			program = append(program,
				unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: t.at},
				unix.SockFilter{Code: unix.BPF_JMP | t.compare | unix.BPF_K, K: t.with, Jf: next})
		}
		program = append(program, unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(r.err)})
	}
	return append(program, unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW}), nil
}
