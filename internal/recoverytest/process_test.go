package recoverytest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/internal/kernel"
	"github.com/fdbroker/fdbroker/protocol"
)

// python is the system's: others than root may not run one in root's home.
const python = "/usr/bin/python3"

// A rig is a directory with both commands and a control socket, for one user.
type rig struct {
	t    *testing.T
	dir  string
	cred *syscall.Credential // nil: who runs the test
}

func newRig(t *testing.T, cred *syscall.Credential) *rig {
	t.Helper()
	if _, err := os.Stat(python); err != nil {
		t.Skipf("%s is not installed", python)
	}
	if cred != nil && os.Geteuid() != 0 {
		t.Skip("needs root to start processes of another user")
	}
	r := &rig{t, fdtest.SocketDir(t), cred}
	fdtest.Build(t, r.dir, "github.com/fdbroker/fdbroker/cmd/fdbroker", "github.com/fdbroker/fdbroker/cmd/fdclient")
	if err := os.CopyFS(r.dir, os.DirFS("testdata")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if cred != nil {
		if err := os.Chown(r.dir, int(cred.Uid), int(cred.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// mayTrace skips a test if Yama forbids the rig's user to take descriptors from other processes of that user.
func (r *rig) mayTrace() {
	r.t.Helper()
	root := r.cred == nil && os.Geteuid() == 0
	if scope := kernel.Read().PtraceScope; scope > 2 || scope > 0 && !root {
		r.t.Skipf("kernel.yama.ptrace_scope is %d", scope)
	}
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

// command returns a command of the rig's user.
func (r *rig) command(name string, args ...string) *exec.Cmd {
	if !strings.Contains(name, "/") {
		name = r.path(name)
	}
	cmd := exec.Command(name, args...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "FDBROKER_SOCKET="+r.path("c"), "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: r.cred}
	return cmd
}

// process is a process that the test's end kills.
type process struct {
	*exec.Cmd
	out  lockedBuffer
	wait func() error // may be called again
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (r *rig) start(name string, args ...string) *process {
	r.t.Helper()
	return r.startCmd(r.command(name, args...))
}

func (r *rig) startCmd(cmd *exec.Cmd) *process {
	r.t.Helper()
	p := &process{Cmd: cmd}
	cmd.Stdout, cmd.Stderr = &p.out, &p.out
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	p.wait = sync.OnceValue(cmd.Wait)
	r.t.Cleanup(p.kill)
	return p
}

// kill kills the process as kill -9 does.
func (p *process) kill() {
	_ = p.Process.Kill()
	_ = p.wait()
}

func (p *process) pid() int { return p.Process.Pid }

// broker starts a broker and waits until it answers.
func (r *rig) broker(args ...string) *process {
	r.t.Helper()
	p := r.start("fdbroker", append([]string{"--store=none"}, args...)...)
	r.awaitReady(p)
	return p
}

// awaitReady waits until a broker answers.
func (r *rig) awaitReady(p *process) {
	r.t.Helper()
	fdtest.Eventually(r.t, "the broker is ready", func() bool {
		return strings.Contains(p.out.String(), `"ready"`) || p.exited()
	})
	if p.exited() {
		r.t.Fatalf("the broker ended:\n%s", p.out.String())
	}
}

// exited reports whether the process has exited, without waiting for it.
func (p *process) exited() bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid()))
	return err != nil || bytes.Contains(b, []byte(") Z "))
}

// fails starts a broker that cannot start, and returns what it says.
func (r *rig) fails(args ...string) string {
	r.t.Helper()
	return r.failed(r.start("fdbroker", append([]string{"--store=none"}, args...)...))
}

// failed waits until a broker ends that cannot start, and returns what it says.
func (r *rig) failed(p *process) string {
	r.t.Helper()
	exit, ok := errors.AsType[*exec.ExitError](p.wait())
	if !ok || exit.ExitCode() != 1 {
		r.t.Fatalf("exit status %v, want 1:\n%s", exit, p.out.String())
	}
	return p.out.String()
}

// run runs a command that must succeed, and returns what it prints.
func (r *rig) run(name string, args ...string) string {
	r.t.Helper()
	out, err := r.command(name, args...).CombinedOutput()
	if err != nil {
		r.t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// worker starts a worker by fdclient get, and waits until it is the holder.
func (r *rig) worker(name string) *process {
	r.t.Helper()
	p := r.start("fdclient", "get", "--wait", "--blocking", name, "--", python, r.path("worker.py"))
	fdtest.Eventually(r.t, "the worker holds it", func() bool { return r.holder(p.pid()) != nil || p.exited() })
	return p
}

// list returns what the broker says.
func (r *rig) list() (l protocol.ListReply) {
	r.t.Helper()
	if err := json.Unmarshal([]byte(r.run("fdclient", "list", "--json")), &l); err != nil {
		r.t.Fatal(err)
	}
	return l
}

// listener returns what the broker says of a name.
func (r *rig) listener(name string) protocol.Listener {
	r.t.Helper()
	for _, l := range r.list().Listeners {
		if l.Name == name {
			return l
		}
	}
	r.t.Fatalf("no listener %s", name)
	return protocol.Listener{}
}

// holder returns what the broker says of a process, or nil.
func (r *rig) holder(pid int) *protocol.Holder {
	r.t.Helper()
	for _, h := range r.list().Holders {
		if h.PID == pid {
			return &h
		}
	}
	return nil
}
