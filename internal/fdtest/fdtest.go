// Package fdtest has what the tests of several packages share: a check that descriptors and goroutines come back,
// waiting for a condition, and helper processes made of the test binary itself. No product code imports it.
package fdtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long Eventually waits: far longer than anything here takes, so that only a hang or a leak reaches it.
var patience = Long(20 * time.Second)

// SlowEnv is the environment variable that says how many times slower than others this machine is: an emulated one.
const SlowEnv = "FDTEST_SLOW"

// Long returns d, and a multiple of it on a slow machine (SlowEnv). It is for times in which something has to be done.
func Long(d time.Duration) time.Duration {
	if n, err := strconv.Atoi(os.Getenv(SlowEnv)); err == nil && n > 1 {
		d *= time.Duration(n)
	}
	return d
}

// Eventually waits until cond is true, and fails the test when it stays false.
// It is for conditions that no channel or descriptor announces.
func Eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	if !waitFor(cond) {
		t.Fatalf("never came true: %s", what)
	}
}

// waitFor waits until cond is true, and reports whether it was in time.
func waitFor(cond func() bool) bool {
	deadline := time.Now().Add(patience)
	for wait := time.Millisecond; !cond(); wait = min(2*wait, 50*time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(wait)
	}
	return true
}

// CheckLeaks is the first line of a test: it fails the test when, once all its other clean-ups have run, more
// descriptors are open or more goroutines run than now. Such a test cannot be parallel.
func CheckLeaks(t testing.TB) {
	t.Helper()
	t.Setenv("FDTEST_SERIAL", "1")          // panics in a parallel test, where counts mean nothing
	if r, w, err := os.Pipe(); err == nil { // makes the runtime open the descriptors of its poller, which it keeps
		_, _ = r.Close(), w.Close()
	}
	fds, goroutines := OpenFDs(t), runtime.NumGoroutine()
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		var now []string
		n := 0
		if waitFor(func() bool {
			now, n = OpenFDs(t), runtime.NumGoroutine()
			return len(now) <= len(fds) && n <= goroutines
		}) {
			return
		}
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		t.Errorf("leak: %d descriptors before, %d after:\n%s\n%d goroutines before, %d after:\n%s",
			len(fds), len(now), strings.Join(now, "\n"), goroutines, n, stacks)
	})
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

// LockAs makes the file path of a user, and keeps it locked until unlock or the test's end.
func LockAs(t testing.TB, path string, uid int) (unlock func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to give files away")
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	unlock = func() { _ = f.Close() }
	t.Cleanup(unlock)
	if err := errors.Join(f.Chown(uid, uid), unix.Flock(int(f.Fd()), unix.LOCK_EX)); err != nil {
		t.Fatal(err)
	}
	return unlock
}

// ClientCount is how many ask at a time with [Clients].
const ClientCount = 4

// Clients calls ask from a few goroutines, in each with a pause before every call: a load, not a flood. It goes on
// until the test ends, or until stop, which waits for the calls under way and may be called more than once.
func Clients(t testing.TB, pause time.Duration, ask func()) (stop func()) {
	quit := make(chan struct{})
	var running sync.WaitGroup
	stop = sync.OnceFunc(func() {
		close(quit)
		running.Wait()
	})
	t.Cleanup(stop)
	for range ClientCount {
		running.Go(func() {
			for {
				select {
				case <-quit:
					return
				case <-time.After(pause):
					ask()
				}
			}
		})
	}
	return stop
}
