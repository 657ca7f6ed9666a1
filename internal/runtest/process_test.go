package runtest

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// rounds is how often what is to happen again and again does.
var rounds = flag.Int("rounds", 8, "repeat replacements `N` times")

// bin has the programs, which are built once.
var bin string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "run")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	const module = "github.com/fdbroker/fdbroker"
	if err := fdtest.Programs(dir, module+"/cmd/fdbroker", module+"/cmd/fdclient", module+"/internal/runtest/testdata/worker"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	bin = dir
	return m.Run()
}

// A rig is a control socket, and what runs there.
type rig struct {
	t       testing.TB
	dir     string
	address string
}

// newRig is a rig with a broker that has bound web with these options.
func newRig(t testing.TB, options string) *rig {
	t.Helper()
	r := &rig{t: t, dir: fdtest.SocketDir(t)}
	r.broker("127.0.0.1:0" + options)
	return r
}

// broker starts a broker that binds web, and waits until it answers.
func (r *rig) broker(web string) {
	r.t.Helper()
	p := r.start("fdbroker", "--bind", "web="+web)
	p.says(`"ready"`)
	r.address = r.list().Listeners[0].Address
}

// process is a program that was started.
type process struct {
	*exec.Cmd
	t    testing.TB
	log  string        // the file with all that it and its children print
	done chan struct{} // closed when it has ended
}

// start starts one of the programs. It leads a process group, all of which the test's
// end kills.
func (r *rig) start(name string, args ...string) *process {
	r.t.Helper()
	return r.startCmd(exec.Command(filepath.Join(bin, name), args...))
}

func (r *rig) startCmd(cmd *exec.Cmd) *process {
	r.t.Helper()
	f, err := os.CreateTemp(r.dir, "log")
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	p := &process{t: r.t, Cmd: cmd, log: f.Name(), done: make(chan struct{})}
	cmd.Env = append(append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "FDBROKER_SOCKET="+r.dir+"/c", "GORACE=atexit_sleep_ms=0"), cmd.Env...)
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	}
	if cmd.Stdout == nil {
		cmd.Stdout, cmd.Stderr = f, f // not a pipe: what it leaves behind would hold that open
	}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait()
		close(p.done)
	}()
	r.t.Cleanup(func() {
		if r.t.Failed() {
			r.t.Logf("%q:\n%s", cmd.Args, p.output())
		}
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-p.done
	})
	return p
}

// run starts fdclient run.
func (r *rig) run(args ...string) *process {
	r.t.Helper()
	return r.start("fdclient", append([]string{"run"}, args...)...)
}

func (p *process) output() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		p.t.Error(err)
	}
	return string(b)
}

// says waits until the process has printed a text so often.
func (p *process) says(text string) { p.t.Helper(); p.saysTimes(text, 1) }

func (p *process) saysTimes(text string, n int) {
	p.t.Helper()
	fdtest.Eventually(p.t, fmt.Sprintf("%q says %q", p.Args, text), func() bool {
		if strings.Count(p.output(), text) >= n {
			return true
		}
		select {
		case <-p.done:
			if strings.Count(p.output(), text) < n {
				p.t.Fatalf("%q has ended (%v), and not said %q", p.Args, p.ProcessState, text)
			}
		default:
		}
		return false
	})
}

func (p *process) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.Process.Signal(sig); err != nil {
		p.t.Fatalf("%q: %v", p.Args, err)
	}
}

// ends waits until the process has exited, with that status.
func (p *process) ends(status int) {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		p.t.Fatalf("%q does not end", p.Args)
	}
	if got := p.ProcessState.ExitCode(); got != status {
		p.t.Fatalf("%q: exit status %d, want %d", p.Args, got, status)
	}
}

// child returns the only child of the process.
func (p *process) child() int {
	p.t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	var all []byte
	for _, f := range files {
		b, _ := os.ReadFile(f) // a thread may have ended
		all = append(all, b...)
	}
	var pid int
	if _, err := fmt.Sscan(string(all), &pid); err != nil {
		p.t.Fatalf("%q has no child: %q, %v", p.Args, all, err)
	}
	return pid
}

// list returns what the broker says.
func (r *rig) list() (l protocol.ListReply) {
	r.t.Helper()
	cmd := exec.Command(filepath.Join(bin, "fdclient"), "--socket", r.dir+"/c", "list", "--json")
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &l)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return l
}

// pids returns the holders in that state.
func (r *rig) pids(state string) (pids []int) {
	r.t.Helper()
	for _, h := range r.list().Holders {
		if h.State == state {
			pids = append(pids, h.PID)
		}
	}
	return pids
}

// holders waits until there are so many holders in that state, and returns them.
func (r *rig) holders(state string, n int) (pids []int) {
	r.t.Helper()
	fdtest.Eventually(r.t, fmt.Sprintf("%d are %s", n, state), func() bool {
		pids = r.pids(state)
		return len(pids) == n
	})
	return pids
}

// manager is a service manager's socket, and what was said to it.
type manager struct {
	t    testing.TB
	path string
	mu   sync.Mutex
	said []string
}

func (r *rig) manager() *manager {
	m := &manager{t: r.t, path: r.dir + "/notify"}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: m.path})
	if err != nil {
		r.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 4096)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			m.mu.Lock()
			m.said = append(m.said, string(b[:n]))
			m.mu.Unlock()
		}
	}()
	r.t.Cleanup(func() {
		_ = c.Close()
		<-done
	})
	return m
}

// hears waits until a message with a text has come, behind those before.
func (m *manager) hears(text string) {
	m.t.Helper()
	fdtest.Eventually(m.t, "the manager hears "+text, func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		for i, s := range m.said {
			if strings.Contains(s, text) {
				m.said = m.said[i+1:]
				return true
			}
		}
		return false
	})
}
