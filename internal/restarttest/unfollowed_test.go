package restarttest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// refusedHelper executes a program that may not open pidfds.
func refusedHelper(args []string) int {
	err := fdtest.Refuse(fdtest.Refused{Call: unix.SYS_PIDFD_OPEN})
	if err == nil {
		err = syscall.Exec(args[0], args, os.Environ())
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// TestUnfollowed: where a profile forbids pidfd_open, the broker that takes over cannot follow the workers of the one
// before. It does not take their listener for unused.
func TestUnfollowed(t *testing.T) {
	fdtest.CheckLeaks(t)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	pidfd, err := unix.GetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	for _, n := range []int{pair[0], pair[1], pidfd} {
		_ = unix.Close(n)
	}
	if err != nil {
		t.Skipf("without pidfd_open this kernel follows no process: %v", err)
	}
	r := startAs(t, func(cmd *exec.Cmd) {
		helper := fdtest.Helper(t, "refused", cmd.Args...)
		cmd.Path, cmd.Args, cmd.Env = helper.Path, helper.Args, helper.Env
	}, "--store=none", "--bind", "web=127.0.0.1:0")
	r.answers(0)
	client := filepath.Dir(r.program) + "/fdclient"
	sleeper := exec.Command(client, "get", "--blocking", "web", "--", "sleep", "1000")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fdtest.Stop(sleeper.Process, func() { _ = sleeper.Wait() }) })
	held := func() bool { l := r.list().Listeners[0]; return l.Blocking && l.Holders+l.Unseen == 1 }
	fdtest.Eventually(t, "it is blocking", held)
	if err := r.client.Upgrade(context.Background()); err != nil {
		t.Fatal(err)
	}
	r.answers(0)
	if !held() {
		t.Errorf("after an upgrade: %+v", r.list().Listeners)
	}
	if out, err := exec.Command(client, "get", "--blocking=false", "web", "--", "true").CombinedOutput(); err == nil {
		t.Errorf("O_NONBLOCK was changed under a worker: %s", out)
	}
}
