package runtest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// A reloadable rig has a broker with a configuration file.
type reloadable struct {
	*rig
	broker *process
	port   string
}

func newReloadable(t testing.TB, options string) *reloadable {
	t.Helper()
	r := &reloadable{rig: &rig{t: t, dir: fdtest.SocketDir(t)}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.address = ln.Addr().String()
	_, r.port, _ = net.SplitHostPort(r.address)
	_ = ln.Close()
	r.configure("web=127.0.0.1:" + r.port + options)
	r.broker = r.start("fdbroker", "--config", r.dir+"/conf")
	r.broker.says(`"ready"`)
	return r
}

func (r *reloadable) configure(lines ...string) {
	r.t.Helper()
	if err := os.WriteFile(r.dir+"/conf", []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// reload loads these specs, and returns what that prints.
func (r *reloadable) reload(status int, specs []string, flags ...string) string {
	r.t.Helper()
	r.configure(specs...)
	cmd := exec.Command(filepath.Join(bin, "fdclient"), append([]string{"--socket", r.dir + "/c", "reload"}, flags...)...)
	out, _ := cmd.CombinedOutput()
	if got := cmd.ProcessState.ExitCode(); got != status {
		r.t.Fatalf("reload of %q %q: status %d, want %d: %s", specs, flags, got, status, out)
	}
	return string(out)
}

// stale waits until so many holders have an old socket, and returns them.
func (r *reloadable) stale(n int) (pids []int) {
	r.t.Helper()
	fdtest.Eventually(r.t, fmt.Sprintf("%d have an old socket", n), func() bool {
		pids = nil
		for _, h := range r.list().Holders {
			if len(h.Stale) > 0 {
				pids = append(pids, h.PID)
			}
		}
		return len(pids) == n
	})
	return pids
}

func (r *reloadable) addresses() []string {
	return []string{"web=:" + r.port, "web=127.0.0.1:" + r.port, "web=0.0.0.0:" + r.port}
}

// TestReloadOptionsUnderLoad: options change under workers that do not know of brokers, and no client notices.
func TestReloadOptionsUnderLoad(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newReloadable(t, "")
	for range 2 {
		r.start("fdclient", "get", "web", "--", "worker", "a", "fd").says("serving")
	}
	l := startLoad(t, r.address)
	for i := range *rounds {
		option := []string{",freebind", "", ",v6only=no,keepalive", ",backlog=9"}[i%4]
		r.reload(0, []string{"web=127.0.0.1:" + r.port + option})
		l.waitFor("a", 20)
	}
	l.done(0)
	r.holders(protocol.StateActive, 2)
}

// TestRebindRun: fdclient run follows another address, and no request fails.
func TestRebindRun(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newReloadable(t, "")
	p := r.run("web", "-n", "2", "--ready", "notify", "--", "worker", "a", "fd")
	p.saysTimes("serving", 2)
	l := startLoad(t, r.address)
	for i := range *rounds {
		out := r.reload(0, r.addresses()[i%3:][:1])
		if want := "changed web: new socket; 2 workers of fdclient run are being replaced\n"; out != want {
			t.Errorf("got %q, want %q", out, want)
		}
		p.saysTimes("workers replaced", i+1)
		r.stale(0)
		l.waitFor("a", 20)
	}
	l.done(0)
}

// TestRebindDialed: a worker of the package broker switches by itself, and no request fails.
func TestRebindDialed(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newReloadable(t, "")
	for range 2 {
		r.start("worker", "a", "dial").says("serving")
	}
	l := startLoad(t, r.address)
	for i := range *rounds {
		if out := r.reload(0, r.addresses()[i%3:][:1]); !strings.Contains(out, "2 clients were told to get it") {
			t.Errorf("got %q", out)
		}
		r.holders(protocol.StateActive, 2)
		l.waitFor("a", 20)
	}
	l.done(0)
}

// TestRebindPlain: another address is refused as long as a worker would be left on the old socket, which does not know
// of brokers. With --rebind it is asked to leave, and clients wait for its successor.
func TestRebindPlain(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newReloadable(t, "")
	get := func(version string) *process {
		t.Helper()
		p := r.start("fdclient", "get", "web", "--", "worker", version, "fd")
		p.says("serving")
		return p
	}
	first, second := get("a"), get("a")
	l := startLoad(t, r.address)
	out := r.reload(1, []string{"web=:" + r.port})
	for _, want := range []string{`"web" needs a new socket`, fmt.Sprintf("pid %d (worker)", first.Process.Pid),
		fmt.Sprintf("pid %d (worker)", second.Process.Pid), "fdclient reload --rebind"} {
		if !strings.Contains(out, want) {
			t.Errorf("got %q, want it to have %q", out, want)
		}
	}
	r.holders(protocol.StateActive, 2)
	l.waitFor("a", 20)
	out = r.reload(0, []string{"web=:" + r.port}, "--rebind")
	if want := fmt.Sprintf("asked pid %d (worker) to leave the old one", first.Process.Pid); !strings.Contains(out, want) || strings.Contains(out, "still") {
		t.Errorf("got %q, want it to have %q", out, want)
	}
	first.ends(0)
	second.ends(0)
	get("b")
	l.waitFor("b", 20)
	l.done(0)
}

// TestRebindEarlierRun: workers of a run that does not know how to replace them when the broker asks for it count as
// processes that would be left behind.
func TestRebindEarlierRun(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newReloadable(t, "")
	ctx, cancel := context.WithCancel(context.Background())
	generation, over := make(chan int64, 1), make(chan struct{})
	go func() {
		defer close(over)
		c := broker.Client{Socket: r.dir + "/c"}
		defer c.Close()
		_ = c.Deploy(ctx, broker.DeployOptions{Joined: func(g int64) { generation <- g }}, "web")
	}()
	defer func() {
		cancel()
		<-over
	}()
	t.Setenv(broker.GenerationEnv, strconv.FormatInt(<-generation, 10))
	p := r.start("fdclient", "get", "web", "--", "worker", "a", "fd")
	p.says("serving")
	if got, want := r.roll(1, "web"), fmt.Sprintf("fdclient: process %d takes no requests: ", os.Getpid()); !strings.HasPrefix(got, want) {
		t.Errorf("got %q, want %q...", got, want)
	}
	left := fmt.Sprintf("pid %d (worker)", p.Process.Pid)
	if out := r.reload(1, []string{"web=:" + r.port}); !strings.Contains(out, "would leave these on the old socket: "+left) {
		t.Errorf("got %q", out)
	}
	if out := r.reload(0, []string{"web=:" + r.port}, "--rebind"); out != "changed web: new socket; asked "+left+" to leave the old one\n" {
		t.Errorf("got %q", out)
	}
	p.ends(0)
}

// TestRebindStuck: a worker that does not leave is named until it ends, also by the next broker, and it serves what was
// queued at the old socket; nothing new comes there.
func TestRebindStuck(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newReloadable(t, "")
	p := r.start("fdclient", "get", "--drain-signal", "none", "web", "--", "worker", "a", "fd")
	p.says("serving")
	pid := p.Process.Pid
	p.signal(syscall.SIGSTOP)
	fdtest.Eventually(t, "its threads are stopped", func() bool { // until then one of them may accept
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		return len(tasks) > 0 && !slices.ContainsFunc(tasks, func(task string) bool {
			stat, _ := os.ReadFile(task)
			return !bytes.Contains(stat, []byte(") T "))
		})
	})
	type result struct {
		text string
		err  error
	}
	answer := make(chan result, 1)
	go func() {
		text, err := ask(r.address, "queued")
		answer <- result{text, err}
	}()
	fdtest.Eventually(t, "a connection waits", func() bool { return *r.list().Listeners[0].Queue == 1 })
	out := r.reload(1, []string{"web=:" + r.port}, "--rebind", "--wait", "100ms")
	if want := fmt.Sprintf("web: pid %d (worker a fd) still has the old socket: restart it", pid); !strings.Contains(out, want) {
		t.Errorf("got %q, want it to have %q", out, want)
	}
	q := r.start("fdclient", "get", "web", "--", "worker", "b", "fd")
	q.says("serving")
	if text, err := ask(r.address, "x"); err != nil || !strings.HasPrefix(text, "b ") {
		t.Errorf("got %q, %v from the new socket", text, err)
	}
	p.signal(syscall.SIGCONT)
	if a := <-answer; a.err != nil || !strings.HasPrefix(a.text, "a ") {
		t.Errorf("got %q, %v from the old socket", a.text, a.err)
	}
	for range 2 {
		if got := r.stale(1); got[0] != pid {
			t.Errorf("%v have an old socket, want %d", got, pid)
		}
		if text := r.text("list"); !strings.Contains(text, "1 +1 of its old socket") || !strings.Contains(text, "active, old socket") {
			t.Errorf("list: %s", text)
		}
		if err := syscall.Kill(r.broker.child(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		r.broker.says(`"crashed"`)
		fdtest.Eventually(t, "the broker answers", func() bool { return r.answers() })
	}
	if text, err := ask(r.address, "x"); err != nil || !strings.HasPrefix(text, "b ") {
		t.Errorf("after the crash: got %q, %v", text, err)
	}
	p.signal(syscall.SIGKILL)
	r.stale(0)
	q.signal(syscall.SIGKILL)
	r.holders(protocol.StateActive, 0)
	if text := r.text("list"); !strings.Contains(text, "nobody") {
		t.Errorf("list: %s", text)
	}
}

// TestRebindLate: a broker that takes over with another configuration does not refuse it, and asks nobody to leave. A
// reload does that later, although it changes nothing.
func TestRebindLate(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newReloadable(t, "")
	p := r.start("fdclient", "get", "web", "--", "worker", "a", "fd")
	p.says("serving")
	r.configure("web=:" + r.port)
	if err := syscall.Kill(r.broker.child(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.broker.says(`"crashed"`)
	r.stale(1)
	out := r.reload(0, []string{"web=:" + r.port}, "--rebind")
	if want := fmt.Sprintf("web: asked pid %d (worker) to leave the old one\n", p.Process.Pid); !strings.HasSuffix(out, want) {
		t.Errorf("got %q, want it to end with %q", out, want)
	}
	p.ends(0)
	r.stale(0)
}

// TestRebindStray: a process that has the socket from its parent is named, too.
func TestRebindStray(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newReloadable(t, "")
	p := r.start("fdclient", "get", "web", "--", "worker", "a", "fd", "fork")
	p.says("serving")
	child := p.child()
	p.signal(syscall.SIGTERM)
	p.ends(0)
	r.holders(protocol.StateActive, 0)
	if out := r.reload(1, []string{"web=:" + r.port}); !strings.Contains(out, fmt.Sprintf("pid %d (worker)", child)) {
		t.Errorf("got %q", out)
	}
	out := r.reload(1, []string{"web=:" + r.port}, "--rebind", "--wait", "1ms")
	if want := fmt.Sprintf("web: pid %d (worker a fd mute) still has the old socket: restart it", child); !strings.Contains(out, want) {
		t.Errorf("got %q", out)
	}
	_ = syscall.Kill(child, syscall.SIGKILL)
	r.stale(0)
}

// TestRebindMax: the holder of an old socket counts as one of the name, so that no two are active.
func TestRebindMax(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newReloadable(t, ",max=1")
	p := r.run("web", "--standby", "1", "--ready", "notify", "--", "worker", "a", "fd")
	p.says("worker on standby")
	fdtest.Eventually(t, "one is active", func() bool { return len(r.pids(protocol.StateActive)) == 1 })
	l := startLoad(t, r.address)
	l.waitFor("a", 5)
	r.reload(0, []string{"web=:" + r.port + ",max=1"})
	r.stale(0)
	l.waitFor("a", 20)
	l.done(0)
}

func (r *reloadable) text(verb string) string {
	out, _ := exec.Command(filepath.Join(bin, "fdclient"), "--socket", r.dir+"/c", verb).CombinedOutput()
	return string(out)
}

func (r *reloadable) answers() bool {
	return exec.Command(filepath.Join(bin, "fdclient"), "--socket", r.dir+"/c", "ping").Run() == nil
}

// TestRebindName: workers of a name whose address another name gets are not left there silently.
func TestRebindName(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newReloadable(t, "")
	p := r.run("web", "--ready", "notify", "--", "worker", "a", "fd")
	p.says("serving")
	specs := []string{"www=127.0.0.1:" + r.port}
	for _, flags := range [][]string{nil, {"--force"}} {
		if out := r.reload(1, specs, flags...); !strings.Contains(out, "(worker)") {
			t.Errorf("%q: got %q", flags, out)
		}
	}
	out := r.reload(0, specs, "--force", "--rebind")
	if !strings.Contains(out, "unbound web: asked pid ") || strings.Contains(out, "still") {
		t.Errorf("got %q", out)
	}
	p.says("leaving")
	r.start("fdclient", "get", "www", "--", "worker", "b", "fd").says("serving")
	if text, err := ask(r.address, "x"); err != nil || !strings.HasPrefix(text, "b ") {
		t.Errorf("got %q, %v", text, err)
	}
}
