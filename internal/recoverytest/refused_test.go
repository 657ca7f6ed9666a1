package recoverytest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/internal/kernel"
	"golang.org/x/sys/unix"
)

// filters are the seccomp filters that programs are run under.
func filters() map[string][]fdtest.Refused {
	return map[string][]fdtest.Refused{
		"no diag":       {fdtest.NoDiag()},
		"before 6.9":    {{Call: unix.SYS_FSTATFS, Errno: unix.ENOSYS}},
		"no signal":     {{Call: unix.SYS_PIDFD_SEND_SIGNAL}},
		"docker":        {{Call: unix.SYS_PIDFD_GETFD}},
		"no pidfd_open": {{Call: unix.SYS_PIDFD_OPEN}, {Call: unix.SYS_PIDFD_GETFD}},
		"no fchmodat2":  {{Call: unix.SYS_FCHMODAT2, Errno: unix.ENOSYS}},
		"no pidfds": { // as Linux 4.18
			{Call: unix.SYS_PIDFD_OPEN, Errno: unix.ENOSYS}, {Call: unix.SYS_PIDFD_GETFD, Errno: unix.ENOSYS},
			{Call: unix.SYS_PIDFD_SEND_SIGNAL, Errno: unix.ENOSYS},
			{Call: unix.SYS_GETSOCKOPT, Args: []int64{-1, unix.SOL_SOCKET, unix.SO_PEERPIDFD}, Errno: unix.ENOPROTOOPT},
			{Call: unix.SYS_GETSOCKOPT, Args: []int64{-1, unix.SOL_SOCKET, unix.SO_PASSRIGHTS}, Errno: unix.ENOPROTOOPT},
			{Call: unix.SYS_SETSOCKOPT, Args: []int64{-1, unix.SOL_SOCKET, unix.SO_PASSRIGHTS}, Errno: unix.ENOPROTOOPT},
		},
	}
}

// underHelper runs a program under a filter: FILTER PROGRAM [ARG]...
func underHelper(args []string) int {
	err := fdtest.Refuse(filters()[args[0]]...)
	if err == nil {
		err = syscall.Exec(args[1], args[1:], os.Environ())
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// startUnder is start under a filter.
func (r *rig) startUnder(filter, name string, args ...string) *process {
	r.t.Helper()
	if _, err := os.Stat(r.path("under")); err != nil {
		r.copyTest("under")
	}
	cmd := r.command("under", append([]string{filter, r.path(name)}, args...)...)
	cmd.Env = append(cmd.Env, "FDTEST_HELPER=under")
	return r.startCmd(cmd)
}

// brokerUnder is broker under a filter.
func (r *rig) brokerUnder(filter string, args ...string) *process {
	r.t.Helper()
	p := r.startUnder(filter, "fdbroker", append([]string{"--store=none"}, args...)...)
	r.awaitReady(p)
	return p
}

// TestTakenBackWithoutDiag: a broker that cannot ask sock_diag goes by /proc/net.
func TestTakenBackWithoutDiag(t *testing.T) {
	r := newRig(t, &syscall.Credential{Uid: 1234, Gid: 1234})
	r.mayTrace()
	r.mayTrace()
	for name, spec := range map[string]string{
		"tcp": "web=" + freePort(t), "all": "web=:" + portOf(t), "udp": "web=udp://" + freePort(t),
		"unix": "web=unix://" + r.path("web") + ",mode=0600", "abstract": "web=unix://@" + r.path("web"),
	} {
		t.Run(name, func(t *testing.T) {
			r.t = t
			b := r.brokerUnder("no diag", "--bind", spec)
			was := r.listener("web")
			w := r.start("fdclient", "get", "web", "--", "sleep", "60")
			fdtest.Eventually(t, "it holds it", func() bool { return r.holder(w.pid()) != nil })
			b.kill()
			b = r.brokerUnder("no diag", "--bind", spec)
			if is := r.listener("web"); is.Cookie != was.Cookie || is.Holders != 1 {
				t.Errorf("got %+v, want %+v\n%s", is, was, b.out.String())
			}
			// A stranger's socket is still named, and not taken.
			if said := r.failsUnder("no diag", "--bind", spec, "--socket", r.path("second")); !strings.Contains(said, "address already in use by pid") {
				t.Error(said)
			}
			b.kill()
		})
	}
}

// TestRefusalsNameTheSetting: a broker that may not take a socket back says which setting forbids that, and fdclient
// adopt says it too.
func TestRefusalsNameTheSetting(t *testing.T) {
	r := newRig(t, &syscall.Credential{Uid: 1234, Gid: 1234})
	spec := "web=" + freePort(t)
	b := r.broker("--bind", spec)
	w := r.worker("web")
	b.kill()
	for filter, want := range map[string]string{
		"docker":        "a seccomp filter forbids it: --cap-add SYS_PTRACE allows it",
		"no pidfd_open": "a seccomp filter forbids it",
	} {
		if said := r.failsUnder(filter, "--bind", spec); !strings.Contains(said, fmt.Sprintf("it cannot be taken from pid %d", w.pid())) || !strings.Contains(said, want) {
			t.Errorf("%s: %s", filter, said)
		}
		p := r.startUnder(filter, "fdclient", "adopt", "web", "--pid", fmt.Sprint(w.pid()))
		if err := p.wait(); err == nil || !strings.Contains(p.out.String(), want) {
			t.Errorf("%s, adopt: %v, %s", filter, err, p.out.String())
		}
	}
	w.kill()
	// Another user's process.
	r.broker("--bind", spec)
	p := r.start("fdclient", "adopt", "web", "--pid", "1")
	if err := p.wait(); err == nil || !strings.Contains(p.out.String(), "permission denied (uid 1234 may not take a descriptor from it): only root (CAP_SYS_PTRACE)") {
		t.Errorf("adopt: %v, %s", err, p.out.String())
	}
}

// failsUnder is fails under a filter.
func (r *rig) failsUnder(filter string, args ...string) string {
	r.t.Helper()
	return r.failed(r.startUnder(filter, "fdbroker", append([]string{"--store=none"}, args...)...))
}

// TestKernelLacks: the broker says at its start what it has to do without, and get works all the same.
func TestKernelLacks(t *testing.T) {
	for filter, want := range map[string][]string{
		"no pidfds": {
			"without pidfd_send_signal, pidfd_open, pidfd_getfd, SO_PEERPIDFD, pidfs, SO_PASSRIGHTS (docs/reference.md)",
			"it needs Linux 5.3", "they are no holders once they run",
		},
		"no pidfd_open": {"without pidfd_open, pidfd_getfd", "a seccomp filter forbids it"},
	} {
		t.Run(filter, func(t *testing.T) {
			r := newRig(t, nil)
			address := freePort(t)
			b := r.brokerUnder(filter, "--bind", "web="+address)
			for _, part := range want {
				if !strings.Contains(b.out.String(), part) {
					t.Errorf("the log does not say %q:\n%s", part, b.out.String())
				}
			}
			w := r.start("fdclient", "get", "--wait", "--blocking", "web", "--", python, r.path("worker.py"))
			fdtest.Eventually(t, "the worker answers", func() bool {
				line, err := ask("tcp", address, "")
				return err == nil && line == fmt.Sprint(w.pid())
			})
		})
	}
}

// hiddenHelper becomes the user 1234, with a /proc that hides other users' processes, and runs a program under a filter:
// FILTER PROGRAM [ARG]... The filter may be empty.
func hiddenHelper(args []string) int {
	runtime.LockOSThread()
	err := errors.Join(
		os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_NEWNS)),
		os.NewSyscallError("mount", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")),
		os.NewSyscallError("mount", unix.Mount("proc", "/proc", "proc", 0, "hidepid=2")),
	)
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot hide:", err)
		return 1
	}
	fmt.Fprintln(os.Stderr, "hidden")
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(1234), syscall.Setuid(1234)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return underHelper(args)
}

// TestHidden: the grants of another user's processes outlive a broker from which /proc hides them.
func TestHidden(t *testing.T) {
	for _, filter := range []string{"", "before 6.9"} {
		t.Run(filter, func(t *testing.T) {
			user := &syscall.Credential{Uid: 1234, Gid: 1234}
			r := newRig(t, user)
			r.copyTest("under")
			cmd := r.command("under", filter, r.path("fdbroker"), "--store=keeper", "--socket-mode=0666", "--bind", "web=127.0.0.1:0,allow=any,max=2")
			cmd.Env = append(cmd.Env, "FDTEST_HELPER=hidden")
			cmd.SysProcAttr.Credential = nil
			b := r.startCmd(cmd)
			fdtest.Eventually(t, "it is hidden", func() bool { return strings.Contains(b.out.String(), "hid") })
			if strings.Contains(b.out.String(), "cannot hide") {
				t.Skip(b.out.String())
			}
			r.awaitReady(b)
			t.Cleanup(func() { _ = b.Process.Signal(syscall.SIGTERM); _ = b.wait() })
			r.cred = &syscall.Credential{Uid: 4321, Gid: 4321}
			one, two := r.start("fdclient", "get", "web", "--", "sleep", "60"), r.start("fdclient", "get", "web", "--", "sleep", "60")
			both := func() bool { return len(r.list().Holders) == 2 }
			fdtest.Eventually(t, "two hold it", both)
			r.crash(b)
			if r.holder(one.pid()) == nil || r.holder(two.pid()) == nil {
				t.Errorf("the holders are %+v\n%s", r.list().Holders, b.out.String())
			}
			one.kill()
			fdtest.Eventually(t, "the end of a holder is seen", func() bool { return r.holder(one.pid()) == nil })
		})
	}
}

// crash kills the broker of the keeper b, and waits for the next one.
func (r *rig) crash(b *process) {
	r.t.Helper()
	var pid int
	text, err := os.ReadFile(r.path("c.lock"))
	if err == nil {
		pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	if err != nil {
		r.t.Fatal(err)
	}
	before := strings.Count(b.out.String(), `"ready"`)
	_ = syscall.Kill(pid, syscall.SIGKILL)
	fdtest.Eventually(r.t, "the next one is ready", func() bool { return strings.Count(b.out.String(), `"ready"`) > before })
}

// TestLostIsSaid: the log says how many grants were not restored, and why.
func TestLostIsSaid(t *testing.T) {
	if slices.Contains(kernel.Missing(), "SO_PEERPIDFD") {
		t.Skip("before Linux 6.5 there is no such grant without pidfd_open")
	}
	if slices.Contains(kernel.Missing(), "SO_PEERPIDFD") {
		t.Skip("needs Linux 6.5: before, no process can be followed without pidfd_open")
	}
	r := newRig(t, nil)
	b := r.startUnder("no pidfd_open", "fdbroker", "--store=keeper", "--bind", "web=127.0.0.1:0")
	r.awaitReady(b)
	t.Cleanup(func() { _ = b.Process.Signal(syscall.SIGTERM); _ = b.wait() })
	w := r.start("fdclient", "get", "web", "--", "sleep", "60")
	fdtest.Eventually(t, "it holds it", func() bool { return r.holder(w.pid()) != nil })
	r.crash(b)
	for _, want := range []string{`"grants":0`, `"count":1`, fmt.Sprintf(`"pids":[%d]`, w.pid()), `"why":"a seccomp filter forbids it`, "not restored"} {
		if !strings.Contains(b.out.String(), want) {
			t.Errorf("the log does not say %s:\n%s", want, b.out.String())
		}
	}
}

// noProcHelper runs a program without a /proc, under a filter: FILTER PROGRAM [ARG]...
func noProcHelper(args []string) int {
	runtime.LockOSThread()
	err := os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_NEWNS))
	if err == nil {
		err = os.NewSyscallError("mount", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	}
	for err == nil {
		if _, serr := os.Stat("/proc/self"); serr != nil {
			break
		}
		err = os.NewSyscallError("umount", unix.Unmount("/proc", unix.MNT_DETACH))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "skip:", err)
		return 1
	}
	return underHelper(args)
}

// TestNoProc: without /proc the broker serves without a keeper, and what needs /proc says so.
func TestNoProc(t *testing.T) {
	r := newRig(t, nil)
	r.copyTest("under")
	without := func(filter, name string, args ...string) *process {
		cmd := r.command("under", append([]string{filter, r.path(name)}, args...)...)
		cmd.Env = append(cmd.Env, "FDTEST_HELPER=noproc")
		return r.startCmd(cmd)
	}
	fails := func(p *process, status int, wants ...string) {
		t.Helper()
		exit, ok := errors.AsType[*exec.ExitError](p.wait())
		if strings.Contains(p.out.String(), "skip:") {
			t.Skip(p.out.String())
		}
		if !ok || exit.ExitCode() != status {
			t.Errorf("got %v, want status %d\n%s", exit, status, p.out.String())
		}
		for _, want := range wants {
			if !strings.Contains(p.out.String(), want) {
				t.Errorf("got %q, want %q in it", p.out.String(), want)
			}
		}
	}
	const missing = "there is no /proc"
	fails(without("", "fdbroker", "--bind", "web=127.0.0.1:0"), 1, "the keeper needs /proc", "--store=none", missing)
	fails(without("no fchmodat2", "fdbroker", "--store=none"), 1, "cannot listen on the control socket", missing)
	b := without("", "fdbroker", "--store=none", "--bind", "web=127.0.0.1:0", "--bind", "file=unix://"+r.path("web")+",mode=0640")
	if fdtest.Eventually(t, "it is ready", func() bool { return strings.Contains(b.out.String(), `"ready"`) || b.exited() }); b.exited() {
		t.Skipf("before Linux 6.6: %s", b.out.String())
	}
	if !strings.Contains(b.out.String(), missing) {
		t.Errorf("the log does not say that there is no /proc:\n%s", b.out.String())
	}
	if st, err := os.Stat(r.path("web")); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("got %v, %v", st.Mode(), err)
	}
	w := without("", "fdclient", "get", "web", "--", "/bin/sleep", "60")
	fdtest.Eventually(t, "it holds it", func() bool { return r.holder(w.pid()) != nil || w.exited() })
	if is := r.listener("web"); is.Holders != 1 {
		t.Errorf("got %+v\n%s", is, w.out.String())
	}
	fails(without("", "fdclient", "run", "web", "--", "/bin/sleep", "60"), 125, "needs /proc", missing)
	fails(without("", "fdclient", "adopt", "other", "--pid", fmt.Sprint(w.pid())), 1, missing)
	fails(r.start("fdclient", "upgrade"), 1, "an upgrade needs /proc")
	w.kill()
	fdtest.Eventually(t, "the end of the holder is seen", func() bool { return r.listener("web").Holders == 0 })
}

// TestRunSignalsByPID: fdclient run stops its workers also where a filter forbids pidfd_send_signal.
func TestRunSignalsByPID(t *testing.T) {
	r := newRig(t, nil)
	r.broker("--bind", "web=127.0.0.1:0")
	run := r.startUnder("no signal", "fdclient", "run", "web", "-n", "2", "--grace", "100s", "--", "sleep", "1000")
	fdtest.Eventually(t, "both workers hold it", func() bool { return r.listener("web").Holders == 2 })
	if err := run.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	fdtest.Eventually(t, "they have ended", func() bool { return r.listener("web").Holders == 0 })
	if err := run.wait(); err != nil {
		t.Errorf("run: %v\n%s", err, run.out.String())
	}
}
