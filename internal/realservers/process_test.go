package realservers

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
	"golang.org/x/sys/unix"
)

// A process is a started program with its children: a process group.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	output string        // the file with what it prints
	done   chan struct{} // closed once it has exited
	gone   bool          // nothing of its group is left
}

// start starts a program whose end, with all its children, the test's end is.
func start(t *testing.T, dir string, env []string, name string, args ...string) *process {
	t.Helper()
	output, err := os.CreateTemp(dir, "output")
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	p := &process{t: t, output: output.Name(), done: make(chan struct{})}
	p.cmd = exec.CommandContext(testContext, name, args...)
	p.cmd.Dir, p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = dir, env, output, output
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.Cancel = func() error { return syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) }
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait()
	}()
	t.Cleanup(p.kill)
	return p
}

func (p *process) group() int { return p.cmd.Process.Pid }

func (p *process) said() string {
	text, _ := os.ReadFile(p.output)
	return string(text)
}

// check fails the test where the process has exited.
func (p *process) check() {
	p.t.Helper()
	select {
	case <-p.done:
		p.t.Fatalf("%s ended with %v:\n%s", p.cmd, p.cmd.ProcessState, p.said())
	default:
	}
}

// waitGone waits until the process and all its children have exited.
func (p *process) waitGone() {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		p.t.Fatalf("%s does not stop:\n%s", p.cmd, p.said())
	}
	fdtest.Eventually(p.t, "no child of a stopped server is left", func() bool {
		return !groupRuns(p.t, p.group())
	})
	p.gone = true
}

// groupRuns reports whether any process of a group has not exited yet. One that
// has may stay for as long as its parent, or init, lets it.
func groupRuns(t *testing.T, group int) bool {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, stat := range stats {
		text, _ := os.ReadFile(stat)                                              // empty where it has gone since
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // state ppid pgrp ...
		if len(fields) > 2 && fields[2] == strconv.Itoa(group) && fields[0] != "Z" && fields[0] != "X" {
			return true
		}
	}
	return false
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	p.check()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) kill() {
	if p.gone {
		return
	}
	_ = syscall.Kill(-p.group(), syscall.SIGKILL)
	p.waitGone()
}

// A testBroker is a broker with one listener.
type testBroker struct {
	*process
	name    string // of the listener
	env     []string
	address string
}

// startBroker starts a broker that holds the listener.
func startBroker(t *testing.T, name, options string) *testBroker {
	t.Helper()
	dir := fdtest.SocketDir(t)
	b := &testBroker{name: name, env: append(os.Environ(), "FDBROKER_SOCKET="+filepath.Join(dir, "control"))}
	b.process = start(t, dir, b.env, filepath.Join(programs, "fdbroker"), "--log-level", "debug", "--bind", name+"=127.0.0.1:0"+options)
	fdtest.Eventually(t, "the broker answers", func() bool {
		b.check()
		out, err := b.fdclient("addr", name).Output()
		b.address = strings.TrimSpace(string(out))
		return err == nil
	})
	return b
}

func (b *testBroker) fdclient(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(testContext, filepath.Join(programs, "fdclient"), args...)
	cmd.Env = b.env
	return cmd
}

// drain asks all who hold the listener but the server to leave, and waits until they
// have.
func (b *testBroker) drain(but *server) {
	b.t.Helper()
	before := ""
	for _, h := range b.all().Holders {
		if h.PID == but.cmd.Process.Pid {
			before = strconv.FormatInt(h.Generation, 10)
		}
	}
	out, err := b.fdclient("drain", b.name, "--before", before, "--wait", "30s").CombinedOutput()
	if err != nil || !strings.HasSuffix(string(out), "\n1 of 1 left\n") {
		b.t.Errorf("fdclient drain: %v: %s", err, out)
	}
}

// stop ends the broker in good order.
func (b *testBroker) stop() {
	b.t.Helper()
	b.signal(syscall.SIGTERM)
	b.waitGone()
	if code := b.cmd.ProcessState.ExitCode(); code != 0 {
		b.t.Errorf("the broker ended with %v:\n%s", b.cmd.ProcessState, b.said())
	}
}

// list returns what fdclient list --json says of the listener.
func (b *testBroker) list() protocol.Listener {
	b.t.Helper()
	return b.all().Listeners[0]
}

// all returns what fdclient list --json says.
func (b *testBroker) all() protocol.ListReply {
	b.t.Helper()
	out, err := b.fdclient("list", "--json").Output()
	if err != nil {
		b.t.Fatalf("fdclient list: %v", err)
	}
	var reply protocol.ListReply
	if err := json.Unmarshal(out, &reply); err != nil {
		b.t.Fatal(err)
	}
	if len(reply.Listeners) != 1 || reply.Listeners[0].Name != b.name || reply.Listeners[0].Limit == nil {
		b.t.Fatalf("fdclient list --json printed %s, want the queue limit of %s", out, b.name)
	}
	return reply
}

// A server is a row's server, started on the listener of a broker.
type server struct {
	*process
	row row
}

// findPrograms returns a PATH that has what the row needs, or skips the test.
func findPrograms(t *testing.T, r row) string {
	t.Helper()
	bin := fdtest.SocketDir(t)
	path := bin + ":" + programs + ":" + os.Getenv("PATH") + ":/usr/sbin:/sbin"
	for _, name := range r.programs {
		exe := find(path, name)
		if name == python3 {
			exe = findPython(path, r.python)
		}
		if exe == "" {
			missing(t, r, name)
		}
		if name == python3 { // not a version manager's script, and with its own prefix
			path = filepath.Dir(exe) + ":" + path
		} else if err := os.Symlink(exe, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// A place is where a row's servers run: a directory with their files.
type place struct {
	row  row
	path string
	dir  string
}

func newPlace(t *testing.T, r row, path, address string) *place {
	t.Helper()
	pl := &place{row: r, path: path, dir: fdtest.SocketDir(t)}
	if err := os.Chmod(pl.dir, 0o755); err != nil { // php-fpm's workers are not root
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join("testdata", r.dir, "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files in testdata/%s: %v", r.dir, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text = bytes.ReplaceAll(text, []byte(documentedAddress), []byte(address))
		if err := os.WriteFile(filepath.Join(pl.dir, filepath.Base(file)), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return pl
}

// documentedAddress is the listener's in the files that docs/servers.md shows.
const documentedAddress = "127.0.0.1:9000"

func missing(t *testing.T, r row, program string) {
	t.Helper()
	text := "there is no " + program
	if r.python != "" {
		text += " with the module " + r.python
	}
	text += ": apt-get install " + r.packages
	if os.Getenv("CI") == "true" {
		t.Fatal(text)
	}
	t.Skip(text)
}

// find returns the program of that name, or, as Debian has php-fpm, the one with a
// version behind it.
func find(path, name string) string {
	for _, pattern := range []string{name, name + "[0-9]*"} {
		for _, dir := range filepath.SplitList(path) {
			found, _ := filepath.Glob(filepath.Join(dir, pattern))
			for _, exe := range found {
				if unix.Access(exe, unix.X_OK) == nil {
					return exe
				}
			}
		}
	}
	return ""
}

// findPython returns an interpreter that has the module.
func findPython(path, module string) string {
	for _, dir := range filepath.SplitList(path) {
		out, err := exec.CommandContext(testContext, filepath.Join(dir, python3), "-c", "import "+module+", sys; print(sys.executable)").Output()
		if err == nil {
			return strings.TrimSpace(string(out))
		}
	}
	return ""
}

// start runs the row's line as a shell does.
func (pl *place) start(b *testBroker) *server {
	b.t.Helper()
	env := append(slices.Clone(b.env), "PATH="+pl.path)
	return &server{start(b.t, pl.dir, env, "/bin/sh", "-c", "exec "+pl.row.line), pl.row}
}

// stop asks the server to end in good order, and waits until it has.
func (s *server) stop() {
	s.t.Helper()
	s.signal(s.row.stop)
	s.waitGone()
}

// Made once for all tests: the built programs, and a context that ends when the
// tests are interrupted, so that what they started ends with them.
var (
	programs    string
	testContext context.Context
)
