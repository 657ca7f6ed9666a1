package kernel

import (
	"io/fs"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestExplain: each refusal names the setting behind it, and what allows it.
func TestExplain(t *testing.T) {
	allowed := func(string) error { return nil }
	refused := func(call string) error { return os.NewSyscallError(call, unix.EPERM) }
	call := os.NewSyscallError
	path := func(err error) error { return &fs.PathError{Op: "open", Path: "/proc/42/fd", Err: err} }
	for name, c := range map[string]struct {
		is   Settings
		err  error
		want []string // none: no explanation
	}{
		"Yama 1":    {Settings{Proc: true, PtraceScope: 1, Refuses: allowed}, call("pidfd_getfd", unix.EPERM), []string{"kernel.yama.ptrace_scope is 1", "CAP_SYS_PTRACE", "fdclient run", "ptrace_scope=0"}},
		"Yama 2":    {Settings{Proc: true, PtraceScope: 2, Refuses: allowed}, call("pidfd_getfd", unix.EPERM), []string{"ptrace_scope is 2", "only root"}},
		"Yama 3":    {Settings{Proc: true, PtraceScope: 3, MayTrace: true, Refuses: allowed}, call("pidfd_getfd", unix.EPERM), []string{"ptrace_scope is 3", "everybody"}},
		"no Yama":   {Settings{Proc: true, Refuses: allowed}, call("pidfd_getfd", unix.EPERM), []string{"only root (CAP_SYS_PTRACE)", "own user"}},
		"root":      {Settings{Proc: true, MayTrace: true, PtraceScope: 1, Refuses: allowed}, call("pidfd_getfd", unix.EPERM), []string{"another user namespace"}},
		"Docker":    {Settings{Proc: true, Filtered: true, PtraceScope: 1, Refuses: refused}, call("pidfd_getfd", unix.EPERM), []string{"seccomp", "--cap-add SYS_PTRACE"}},
		"module":    {Settings{Proc: true, Refuses: refused}, call("pidfd_getfd", unix.EPERM), []string{"security module"}},
		"old":       {Settings{Release: "4.18", Refuses: refused}, call("pidfd_open", unix.ENOSYS), []string{"needs Linux 5.3", "this is 4.18"}},
		"hidden":    {Settings{Release: "6.1", Filtered: true, Refuses: refused}, call("pidfd_open", unix.ENOSYS), []string{"seccomp", "5.3", "6.1"}},
		"forbidden": {Settings{Filtered: true, Refuses: refused}, call("memfd_create", unix.EPERM), []string{"seccomp"}},
		"signal":    {Settings{Filtered: true, Refuses: allowed}, call("pidfd_send_signal", unix.EPERM), []string{"CAP_KILL"}},
		"no /proc":  {Settings{Refuses: allowed}, path(unix.ENOENT), []string{"there is no /proc", "mount"}},
		"hidepid":   {Settings{Proc: true, Hides: true, Refuses: allowed}, path(unix.ENOENT), []string{"hidepid", "gid="}},
		"another's": {Settings{Proc: true, Refuses: allowed}, path(unix.EACCES), []string{"only root"}},
		"no module": {Settings{Proc: true}, call("tcp_diag", unix.ENOENT), []string{"module tcp_diag", "modprobe"}},
		"families":  {Settings{Proc: true}, call("sock_diag", unix.EAFNOSUPPORT), []string{"RestrictAddressFamilies="}},
		"other":     {Settings{Proc: true, Refuses: allowed}, call("pidfd_getfd", unix.EBADF), nil},
		"elsewhere": {Settings{Proc: true, Refuses: allowed}, &fs.PathError{Op: "open", Path: "/etc/x", Err: unix.EACCES}, nil},
	} {
		got := c.is.Explain(c.err)
		if (got == "") != (c.want == nil) {
			t.Errorf("%s: got %q", name, got)
		}
		for _, part := range c.want {
			if !strings.Contains(got, part) {
				t.Errorf("%s: got %q, want %q in it", name, got, part)
			}
		}
	}
}

// TestHides: only the mount at /proc that is on top counts.
func TestHides(t *testing.T) {
	const plain = "22 28 0:21 / /proc rw,nosuid shared:5 - proc proc rw\n"
	for mounts, want := range map[string]bool{
		"":    false,
		plain: false,
		plain + "23 22 0:30 / /proc rw - proc proc rw,gid=4,hidepid=invisible\n": true,
		"23 22 0:30 / /proc rw - proc proc rw,hidepid=2\n":                       true,
		"23 22 0:30 / /proc rw - proc proc rw,hidepid=noaccess\n":                false,
		"23 22 0:30 / /mnt/proc rw - proc proc rw,hidepid=2\n" + plain:           false,
		"23 22 0:30 / /proc rw - proc proc rw,hidepid=2\n" + plain:               false,
	} {
		if got := hides(mounts); got != want {
			t.Errorf("%q: %t", mounts, got)
		}
	}
}

// TestMissing: what is missing is what fails.
func TestMissing(t *testing.T) {
	missing := make(map[string]bool)
	for _, name := range Missing() {
		missing[name] = true
	}
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err == nil {
		_ = unix.Close(fd)
	}
	if missing["pidfd_open"] != (err != nil) || missing["pidfd_open"] != (Refuses("pidfd_open") != nil) {
		t.Errorf("%v, and pidfd_open: %v", missing, err)
	}
	if missing["pidfs"] == HasPidfs() {
		t.Errorf("%v", missing)
	}
	if is := Read(); !is.Proc || is.Release != Release() || is.Release == "" {
		t.Errorf("got %+v", is)
	}
}
