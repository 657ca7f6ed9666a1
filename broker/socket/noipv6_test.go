package socket_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

// noIPv6Helper forbids itself IPv6 sockets, in the way in which systemd does it for RestrictAddressFamilies=, then
// opens the specs as tryHelper does.
func noIPv6Helper(args []string) int {
	const (
		number   = 0  // offset of the system call's number in struct seccomp_data
		firstArg = 16 // offset of its first argument's low half (little-endian)
	)
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: number},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_SOCKET, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: firstArg},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.AF_INET6, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	// To all threads at once: the runtime has several already.
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		fmt.Println("seccomp:", errno)
		return 0
	}
	return tryHelper(args)
}

func TestWithoutIPv6(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to install a seccomp filter without no_new_privs")
	}
	if runtime.GOARCH == "386" {
		t.Skip("a filter cannot see what socketcall is asked for")
	}
	fdtest.CheckLeaks(t)
	held := open(t, "h=tcp4://:0") // the name of the address that is really bound is in the error
	port := portOf(held.Address())
	out, err := fdtest.Helper(t, "noipv6", "a=:0", "b=udp://:0", "c="+port, "d=:0,v6only", "e=[::1]:0").Output()
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(string(out), "seccomp:") {
		t.Skipf("no seccomp here: %s", out)
	}
	const none = "IPv6 is not to be had here (the kernel has none, or this process may not use it)"
	want := []string{
		"ok", "ok",
		fmt.Sprintf("cannot bind c=%s: address already in use by pid %d (%s)", port, os.Getpid(), helperCommand()),
		"cannot bind d=:0: " + none,
		"cannot bind e=[::1]:0: " + none,
	}
	if got := strings.Split(strings.TrimSpace(string(out)), "\n"); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got %q, want %q", got, want)
	}
}
