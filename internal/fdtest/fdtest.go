// Package fdtest has what the tests of several packages share: a check that descriptors and goroutines come back,
// waiting for a condition, and helper processes made of the test binary itself. No product code imports it.
package fdtest

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// patience is how long Eventually waits: far longer than anything here takes, so that only a hang or a leak reaches it.
const patience = 20 * time.Second

// Eventually waits until cond is true, and fails the test when it stays false.
// It is for conditions that no channel or descriptor announces.
func Eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		if cond() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("never came true: %s", what)
		}
		time.Sleep(wait)
	}
}

// CheckLeaks is the first line of a test: it fails the test when, once all its other clean-ups have run, more
// descriptors are open or more goroutines run than now. Such a test cannot be parallel.
func CheckLeaks(t testing.TB) {
	t.Helper()
	t.Setenv("FDTEST_SERIAL", "1") // panics in a parallel test, where counts mean nothing
	warmUp()
	fds, goroutines := OpenFDs(t), runtime.NumGoroutine()
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		deadline := time.Now().Add(patience)
		for {
			now := OpenFDs(t)
			n := runtime.NumGoroutine()
			if len(now) <= len(fds) && n <= goroutines {
				return
			}
			if time.Now().After(deadline) {
				stacks := make([]byte, 1<<20)
				stacks = stacks[:runtime.Stack(stacks, true)]
				t.Errorf("leak: %d descriptors before, %d after:\n%s\n%d goroutines before, %d after:\n%s",
					len(fds), len(now), strings.Join(now, "\n"), goroutines, n, stacks)
				return
			}
			time.Sleep(2 * time.Millisecond)
		}
	})
}

// warmUp makes the runtime open the descriptors of its poller, which it keeps.
func warmUp() {
	r, w, err := os.Pipe()
	if err != nil {
		return
	}
	_ = r.Close()
	_ = w.Close()
}

// OpenFDs lists this process's open descriptors, each with what it refers to.
func OpenFDs(t testing.TB) []string { return FDsOf(t, os.Getpid()) }

// FDsOf lists the open descriptors of a process, each with what it refers to.
func FDsOf(t testing.TB, pid int) []string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var fds []string
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // the directory's own descriptor, closed by now
		}
		fds = append(fds, e.Name()+" -> "+to)
	}
	return fds
}

// SocketDir returns a directory for Unix sockets, removed when the test ends.
// Unlike t.TempDir its path is short: a socket's has at most 107 bytes.
func SocketDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
