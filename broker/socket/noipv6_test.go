package socket_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

// noIPv6Helper forbids itself IPv6 sockets, in the way in which systemd does it for RestrictAddressFamilies=, then
// opens the specs as tryHelper does.
func noIPv6Helper(args []string) int {
	err := fdtest.Refuse(fdtest.Refused{Call: unix.SYS_SOCKET, Args: []int64{unix.AF_INET6}, Errno: unix.EAFNOSUPPORT})
	if err != nil {
		fmt.Println(err)
		return 0
	}
	return tryHelper(args)
}

func TestWithoutIPv6(t *testing.T) {
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
	const none = "IPv6 is not available (the kernel lacks it, or this process may not use it)"
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
