// Package kernel knows what the kernel and the settings of a machine do not allow: which of the features that fdbroker
// uses are missing, and which setting has made the kernel refuse a system call.
//
// It finds out by calls that change nothing, and by reading /proc. It parses no version, and never decides what is done
// without a feature. docs/reference.md lists the consequences.
package kernel

import (
	"errors"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// since returns in which version of Linux a system call came, or "".
func since(call string) string {
	switch call {
	case "memfd_create":
		return "3.17"
	case "pidfd_send_signal":
		return "5.1"
	case "pidfd_open":
		return "5.3"
	case "pidfd_getfd":
		return "5.6"
	case "close_range":
		return "5.9"
	}
	return ""
}

// Missing returns the features that fdbroker uses and this kernel does not have, or a seccomp filter hides: the oldest
// first. The kernel lacks nothing if it is Linux 6.16 or later.
func Missing() (names []string) {
	for _, call := range []string{"pidfd_send_signal", "pidfd_open", "pidfd_getfd"} {
		if err := Refuses(call); err != nil {
			names = append(names, call)
		}
	}
	s, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(s[0])
		defer unix.Close(s[1])
	}
	if n, err := unix.GetsockoptInt(s[0], unix.SOL_SOCKET, unix.SO_PEERPIDFD); err == nil {
		_ = unix.Close(n)
	} else if err == unix.ENOPROTOOPT {
		names = append(names, "SO_PEERPIDFD")
	}
	if !HasPidfs() {
		names = append(names, "pidfs")
	}
	if _, err := unix.GetsockoptInt(s[0], unix.SOL_SOCKET, unix.SO_PASSRIGHTS); err == unix.ENOPROTOOPT {
		names = append(names, "SO_PASSRIGHTS")
	}
	return names
}

// Refuses returns the error of a system call that is missing, or forbidden whatever its arguments are: ENOSYS or EPERM.
// It is nil if the call can succeed. It makes the call with arguments that the kernel itself would answer otherwise.
func Refuses(call string) (err error) {
	const none = -1
	switch call {
	case "pidfd_send_signal":
		err = unix.PidfdSendSignal(none, 0, nil, 0) // EBADF
	case "pidfd_open":
		_, err = unix.PidfdOpen(none, 0) // EINVAL
	case "pidfd_getfd":
		_, err = unix.PidfdGetfd(none, none, 0) // EBADF
	}
	if err != unix.ENOSYS && err != unix.EPERM {
		return nil
	}
	return os.NewSyscallError(call, err)
}

// HasPidfs reports whether each pidfd has an inode of its own, which is that of no later process (pidfs, Linux 6.9).
var HasPidfs = sync.OnceValue(func() bool {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var st unix.Statfs_t
	return unix.Fstatfs(fd, &st) == nil && st.Type == unix.PID_FS_MAGIC
})

// Release returns the kernel's version, for messages: the first two numbers.
func Release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	parts := strings.SplitN(unix.ByteSliceToString(u.Release[:]), ".", 3)
	if len(parts) < 2 {
		return parts[0]
	}
	minor := strings.TrimRightFunc(parts[1], func(r rune) bool { return r < '0' || r > '9' })
	return parts[0] + "." + minor
}

// isRefusal reports whether err can come from a setting, or a feature that is missing.
func isRefusal(err error) bool {
	for _, errno := range []unix.Errno{
		unix.EPERM, unix.EACCES, unix.ENOSYS, unix.ENOENT, unix.EPROTONOSUPPORT, unix.EOPNOTSUPP, unix.EAFNOSUPPORT,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}
