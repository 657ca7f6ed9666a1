package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Settings are what decides whether the kernel refuses a call.
type Settings struct {
	Release     string // of the kernel, for messages
	Proc        bool   // there is a /proc
	Hides       bool   // which is mounted with hidepid, and hides other users' processes from this one
	PtraceScope int    // kernel.yama.ptrace_scope; 0 also without Yama
	MayTrace    bool   // this process has CAP_SYS_PTRACE
	Filtered    bool   // a seccomp filter is in force
	// Refuses is [Refuses].
	Refuses func(call string) error
}

// Read returns the settings that hold for this process now.
func Read() Settings {
	s := Settings{Release: Release(), Refuses: Refuses}
	status, err := readFile("/proc/self/status")
	s.Proc = err == nil
	caps, _ := strconv.ParseUint(field(status, "CapEff"), 16, 64)
	s.MayTrace = caps&(1<<unix.CAP_SYS_PTRACE) != 0
	mode, _ := strconv.Atoi(field(status, "Seccomp"))
	s.Filtered = mode == 2
	scope, _ := readFile("/proc/sys/kernel/yama/ptrace_scope")
	s.PtraceScope, _ = strconv.Atoi(string(bytes.TrimSpace(scope)))
	mounts, _ := readFile("/proc/self/mountinfo")
	s.Hides = hides(string(mounts))
	return s
}

// readFile is [os.ReadFile] without the runtime's poller, of which Explain may have to do without: a thread with a
// descriptor table of its own would open it there, and the other threads would look for it in theirs.
func readFile(path string) (b []byte, err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	for part := make([]byte, 4096); ; {
		n, err := unix.Read(fd, part)
		if n <= 0 || err != nil {
			return b, err
		}
		b = append(b, part[:n]...)
	}
}

// field returns the value of a line of /proc/PID/status.
func field(status []byte, name string) string {
	_, rest, _ := bytes.Cut(status, []byte("\n"+name+":"))
	value, _, _ := bytes.Cut(rest, []byte("\n"))
	return string(bytes.TrimSpace(value))
}

// hides reports whether /proc is mounted so that it hides other users' processes (proc(5)), from /proc/self/mountinfo.
func hides(mounts string) (is bool) {
	for line := range strings.Lines(mounts) {
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[4] != "/proc" {
			continue
		}
		options := "," + fields[len(fields)-1] + "," // of the last mount there
		is = false
		for _, value := range []string{"2", "4", "invisible", "ptraceable"} {
			is = is || strings.Contains(options, ",hidepid="+value+",")
		}
	}
	return is
}

// Explain returns which setting has made the kernel refuse a call with err, and what allows it. It is empty if err is of
// another kind. The name of the call, or the path in /proc, is taken from err: see [os.SyscallError] and [fs.PathError].
func Explain(err error) string {
	if !isRefusal(err) {
		return ""
	}
	return Read().Explain(err)
}

// Explain is [Explain] under these settings.
func (s Settings) Explain(err error) string {
	errno, _ := errors.AsType[syscall.Errno](err)
	if at, ok := errors.AsType[*fs.PathError](err); ok && (at.Path == "/proc" || strings.HasPrefix(at.Path, "/proc/")) {
		return s.explainProc(errno)
	}
	call, ok := errors.AsType[*os.SyscallError](err)
	switch {
	case !ok:
		return ""
	case strings.HasSuffix(call.Syscall, "_diag"):
		return explainDiag(call.Syscall, errno)
	case since(call.Syscall) == "":
		return ""
	case errno == unix.ENOSYS && s.Filtered:
		return fmt.Sprintf("a seccomp filter hides it, or it needs Linux %s and this is %s: the container's profile or "+
			"SystemCallFilter= can allow it", since(call.Syscall), s.Release)
	case errno == unix.ENOSYS:
		return fmt.Sprintf("it needs Linux %s, and this is %s", since(call.Syscall), s.Release)
	case errno != unix.EPERM:
		return ""
	case call.Syscall == "pidfd_getfd" && s.Refuses(call.Syscall) == nil:
		return s.explainTrace()
	case call.Syscall == "pidfd_send_signal" && s.Refuses(call.Syscall) == nil:
		return "only the process's user and root (CAP_KILL) may send it a signal"
	case s.Filtered && call.Syscall == "pidfd_getfd":
		return "a seccomp filter forbids it: --cap-add SYS_PTRACE allows it in Docker and Podman, SystemCallFilter=pidfd_getfd in a unit"
	case s.Filtered:
		return "a seccomp filter forbids it: the container's profile or SystemCallFilter= can allow it"
	}
	return "a security module forbids it"
}

// explainTrace says why this process may not trace another one, of which it wants a descriptor (ptrace(2)).
func (s Settings) explainTrace() string {
	switch {
	case s.PtraceScope >= 3:
		return "kernel.yama.ptrace_scope is 3, which forbids it to everybody until the next boot: only the worker itself " +
			"can give its socket back, as package broker does"
	case s.MayTrace:
		return "not even CAP_SYS_PTRACE is enough: the process is in another user namespace, or a security module forbids it"
	case s.PtraceScope == 2:
		return "kernel.yama.ptrace_scope is 2: only root (CAP_SYS_PTRACE) may, or the worker itself can give its socket " +
			"back, as package broker does"
	case s.PtraceScope == 1:
		return "kernel.yama.ptrace_scope is 1: only root (CAP_SYS_PTRACE) and the ancestors of the process may, such as " +
			"'fdclient run', or its user after sysctl kernel.yama.ptrace_scope=0"
	}
	return "only root (CAP_SYS_PTRACE) may, and the process's own user unless it has changed its user or cannot be dumped"
}

// explainProc says why /proc shows nothing of a process that lives.
func (s Settings) explainProc(errno syscall.Errno) string {
	switch {
	case !s.Proc:
		return "there is no /proc: it has to be mounted (mount -t proc proc /proc)"
	case errno == unix.ENOENT && s.Hides:
		return "/proc is mounted with hidepid: it shows other users' processes only to root (CAP_SYS_PTRACE), and to the " +
			"group of its option gid="
	case errno == unix.ENOENT:
		return "this /proc does not show it"
	case errno == unix.EACCES, errno == unix.EPERM:
		return s.explainRead()
	}
	return ""
}

func (s Settings) explainRead() string {
	if s.MayTrace {
		return "not even CAP_SYS_PTRACE is enough: the process is in another user namespace, or a security module forbids it"
	}
	return "only root (CAP_SYS_PTRACE) may, and the process's own user unless it has changed its user or cannot be dumped"
}

// explainDiag says why the kernel does not tell of sockets: module is inet_diag or the like, or sock_diag for all.
func explainDiag(module string, errno syscall.Errno) string {
	switch errno {
	case unix.EAFNOSUPPORT:
		return "netlink is forbidden: RestrictAddressFamilies= has to have AF_NETLINK"
	case unix.EPERM, unix.EACCES:
		return "a seccomp filter or a security module forbids netlink"
	}
	return "the kernel module " + module + " is missing, or cannot be loaded (modprobe " + module + ")"
}
