package procfs_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/internal/procfs"
)

const noProcess = 1 << 30 // higher than any pid (proc(5), pid_max)

func TestOwnProcess(t *testing.T) {
	pid, name := os.Getpid(), filepath.Base(os.Args[0])
	if got := procfs.Command(pid); !strings.HasPrefix(got, os.Args[0]) || len(got) > 200 || strings.Contains(got, "\x00") {
		t.Errorf("command %q", got)
	}
	if got, want := procfs.Name(pid), name[:min(len(name), 15)]; got != want {
		t.Errorf("name %q, want %q", got, want)
	}
	if got := procfs.Parent(pid); got != os.Getppid() {
		t.Errorf("parent %d, want %d", got, os.Getppid())
	}
	if !procfs.Descends(pid, os.Getppid()) || procfs.Descends(os.Getppid(), pid) || procfs.Descends(pid, pid) || procfs.Descends(pid, 0) {
		t.Error("a process descends from its parent, and not the other way round")
	}
	if own, parent := procfs.StartTime(pid), procfs.StartTime(os.Getppid()); own == 0 || own < parent {
		t.Errorf("started at %d, and the parent at %d", own, parent)
	}
}

func TestNoProcess(t *testing.T) {
	if got := procfs.Name(noProcess); got != "gone since" {
		t.Errorf("name %q", got)
	}
	for _, pid := range []int{0, noProcess} {
		if c, p, s := procfs.Command(pid), procfs.Parent(pid), procfs.StartTime(pid); c != "" || p != 0 || s != 0 {
			t.Errorf("pid %d: %q, %d, %d", pid, c, p, s)
		}
	}
}

// TestLocker: the process that has a file locked is found, and no other.
func TestLocker(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := t.TempDir() + "/lock"
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if pid := procfs.Locker(path); pid != 0 {
		t.Errorf("unlocked, but by %d", pid)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if pid := procfs.Locker(path); pid != os.Getpid() {
		t.Errorf("locked by %d", pid)
	}
	if pid := procfs.Locker(path + ".other"); pid != 0 {
		t.Errorf("a file that is not there is locked by %d", pid)
	}
}
