package main

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

func TestMain(m *testing.M) {
	fdtest.Main(m, map[string]func([]string) int{
		"look": helperLook,
		"run": func(args []string) int {
			_ = os.Setenv(fdtest.HelperEnv, "look")
			fmt.Fprintln(os.Stderr, run("/proc/self/exe", args))
			return 1
		},
	})
}

// TestHidden: a program sees nothing that is newer than Linux 5.10, and all that is older.
func TestHidden(t *testing.T) {
	fdtest.CheckLeaks(t)
	if _, err := filter(); err != nil {
		t.Skip(err)
	}
	if err := fdtest.Helper(t, "run", "look").Run(); err != nil {
		t.Error(err)
	}
}

// helperLook makes calls of all kinds, and fails if one has another result than on Linux 5.10.
func helperLook([]string) int {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	pidfd, perr := unix.PidfdOpen(os.Getpid(), unix.PIDFD_NONBLOCK)
	var fs unix.Statfs_t
	status := 0
	for _, c := range []struct {
		what      string
		err, want error
	}{
		{"socket", err, nil},
		{"getsockopt", second(unix.GetsockoptInt(s, unix.SOL_SOCKET, unix.SO_PASSCRED)), nil},
		{"getsockopt SO_PEERPIDFD", second(unix.GetsockoptInt(s, unix.SOL_SOCKET, unix.SO_PEERPIDFD)), unix.ENOPROTOOPT},
		{"setsockopt SO_PASSRIGHTS", unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 0), unix.ENOPROTOOPT},
		{"setsockopt", unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_PASSCRED, 0), nil},
		{"memfd_create", second(unix.MemfdCreate("", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)), nil},
		{"memfd_create MFD_NOEXEC_SEAL", second(unix.MemfdCreate("", unix.MFD_CLOEXEC|unix.MFD_NOEXEC_SEAL)), unix.EINVAL},
		{"close_range", unix.CloseRange(1<<20, 1<<20, 0), nil},
		{"close_range CLOSE_RANGE_CLOEXEC", unix.CloseRange(1<<20, 1<<20, unix.CLOSE_RANGE_CLOEXEC), unix.EINVAL},
		{"pidfd_open", perr, nil},
		{"fstatfs of a pidfd", unix.Fstatfs(pidfd, &fs), unix.ENOSYS},
		{"name_to_handle_at of a pidfd", handle(pidfd), unix.EOPNOTSUPP},
		{"pidfd_open PIDFD_THREAD", second(unix.PidfdOpen(os.Getpid(), unix.PIDFD_THREAD)), unix.EINVAL},
		{"fchmodat2", fchmodat2(), unix.ENOSYS},
	} {
		if c.err != c.want {
			fmt.Fprintf(os.Stderr, "%s: %v, want %v\n", c.what, c.err, c.want)
			status = 1
		}
	}
	return status
}

func second[T any](_ T, err error) error { return err }

func handle(fd int) error {
	_, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH)
	return err
}

func fchmodat2() error {
	_, _, errno := unix.Syscall(unix.SYS_FCHMODAT2, 0, 0, 0)
	return errno
}
