// Package examples_test runs the example programs as processes, against the
// real broker. The experiment in square has its own test beside it.
package examples_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

const module = "github.com/fdbroker/fdbroker"

// Made once for all tests: the built programs, and a context that ends when the
// tests are interrupted, so that their processes end with them.
var (
	programs    string
	testContext context.Context
)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	dir, err := os.MkdirTemp("", "examples")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := fdtest.Programs(dir, module+"/cmd/fdbroker", module+"/cmd/fdclient", module+"/examples/http"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	programs, testContext = dir, ctx
	return m.Run()
}

// TestHTTP: under load, killing a worker loses nothing but what it had begun,
// and stopping one in order loses nothing at all.
func TestHTTP(t *testing.T) {
	fdtest.CheckLeaks(t)
	address := startBroker(t)
	workers := map[string]*process{}
	for range 2 {
		p := startHTTP(t)
		workers[p.pid()] = p
	}
	load := startLoad(t, "http://"+address, 4)
	load.waitAnswers(50)

	victim := workers[load.last().by]
	killed := time.Now()
	victim.signal(syscall.SIGKILL)
	_ = victim.wait()
	gone := time.Now()
	load.waitAnswers(50)

	third := startHTTP(t)
	for pid, p := range workers {
		if pid == victim.pid() {
			continue
		}
		p.signal(syscall.SIGTERM)
		if err := p.wait(); err != nil {
			t.Errorf("a worker that was asked to stop ended with %v", err)
		}
	}
	load.waitAnswers(50)
	if got := load.last().by; got != third.pid() {
		t.Errorf("at the end process %s answers, want %s, the only one left", got, third.pid())
	}

	requests := load.stop()
	failed := 0
	for _, r := range requests {
		if r.err == nil {
			continue
		}
		failed++
		if r.end.Before(killed) || r.start.After(gone) {
			t.Errorf("a request failed while no worker was being killed: %v", r.err)
		}
	}
	t.Logf("%d requests, of which the kill cost %d", len(requests), failed)
}

// TestHTTPKilledIdle: a worker that is killed while it serves nobody loses
// nothing, and until the next one comes the requests wait.
func TestHTTPKilledIdle(t *testing.T) {
	fdtest.CheckLeaks(t)
	address := startBroker(t)
	first := startHTTP(t)
	if got := get("http://" + address); got.err != nil || got.by != first.pid() {
		t.Fatalf("got an answer from %q (%v), want one from %s", got.by, got.err, first.pid())
	}
	first.signal(syscall.SIGKILL)
	_ = first.wait()

	load := startLoad(t, "http://"+address, 4)
	second := startHTTP(t)
	load.waitAnswers(50)
	for _, r := range load.stop() {
		if r.err != nil || r.by != second.pid() {
			t.Fatalf("got an answer from %q (%v), want one from %s", r.by, r.err, second.pid())
		}
	}
}

// TestPython: the raw protocol in a few lines of Python.
func TestPython(t *testing.T) {
	python := findPython(t)
	fdtest.CheckLeaks(t)
	address := startBroker(t)
	p := start(t, "serves http://"+address, python, "python/client.py")
	for range 20 {
		if got := get("http://" + address); got.err != nil || got.by != p.pid() {
			t.Fatalf("got an answer from %q (%v), want one from %s", got.by, got.err, p.pid())
		}
	}
}

// TestPythonBesideGo: a Python and a Go process share one listener.
func TestPythonBesideGo(t *testing.T) {
	python := findPython(t)
	fdtest.CheckLeaks(t)
	address := startBroker(t)
	inGo := startHTTP(t)
	inPython := start(t, "serves http://"+address, python, "python/client.py")
	load := startLoad(t, "http://"+address, 4)
	fdtest.Eventually(t, "both have answered", func() bool {
		by := load.answeredBy()
		return by[inGo.pid()] > 0 && by[inPython.pid()] > 0
	})
	for _, r := range load.stop() {
		if r.err != nil {
			t.Error(r.err)
		}
	}
}

// TestPythonErrors: an error is printed as one line.
func TestPythonErrors(t *testing.T) {
	python := findPython(t)
	fdtest.CheckLeaks(t)
	startBroker(t)
	missing := filepath.Join(t.TempDir(), "control")
	for _, test := range []struct{ name, listener, socket, want string }{
		{"unknown name", "wbe", os.Getenv("FDBROKER_SOCKET"), "io.fdbroker.UnknownName"},
		{"no broker", "web", missing, "No such file or directory"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("FDBROKER_SOCKET", test.socket)
			out, err := exec.CommandContext(testContext, python, "python/client.py", test.listener).CombinedOutput()
			exit, ok := errors.AsType[*exec.ExitError](err)
			if !ok || exit.ExitCode() != 1 {
				t.Errorf("got %v, want exit status 1", err)
			}
			got := string(out)
			for _, want := range []string{test.want, test.listener, test.socket} {
				if strings.Count(got, "\n") != 1 || !strings.Contains(got, want) {
					t.Errorf("got %q, want one line with %q", got, want)
				}
			}
		})
	}
}

// findPython returns the interpreter, and skips the test if there is none.
func findPython(t *testing.T) string {
	t.Helper()
	python := os.Getenv("PYTHON")
	if python == "" {
		python = "python3"
	}
	// Not the python3 in $PATH, which may be a version manager's script: that would be killed.
	out, err := exec.CommandContext(testContext, python, "-c", "import sys; print(sys.executable)").Output()
	if err != nil {
		t.Skipf("no Python: %s: %v", python, err)
	}
	return strings.TrimSpace(string(out))
}

// startBroker starts a broker that holds the listener "web", points
// $FDBROKER_SOCKET to it, and returns the listener's address.
func startBroker(t *testing.T) string {
	t.Helper()
	t.Setenv("FDBROKER_SOCKET", filepath.Join(fdtest.SocketDir(t), "control"))
	p := start(t, `"message":"ready"`, filepath.Join(programs, "fdbroker"), "--bind", "web=127.0.0.1:0", "--log-format", "json")
	t.Cleanup(func() {
		p.signal(syscall.SIGTERM)
		if err := p.wait(); err != nil {
			t.Errorf("the broker ended with %v", err)
		}
	})
	out, err := exec.CommandContext(testContext, filepath.Join(programs, "fdclient"), "addr", "web").Output()
	if err != nil {
		t.Fatalf("fdclient addr web: %v", err)
	}
	return strings.TrimSpace(string(out))
}

func startHTTP(t *testing.T) *process {
	t.Helper()
	return start(t, "serves http://", filepath.Join(programs, "http"))
}
