package systemdtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// boxEnv names the program that makes trees with a systemd: PROGRAM build DIR SUITE.
const boxEnv = "FDBROKER_SYSTEMD_BOX"

// tree is a Debian tree with a systemd, for tests that need its programs. The tree is
// kept for the next run, and may be in use by other tests: put nothing into it.
type tree struct {
	dir string
}

// systemdTree returns the tree of a Debian suite, which it makes where there is none,
// under $XDG_CACHE_HOME or /tmp. It skips the test where that cannot be.
func systemdTree(t testing.TB, suite string) tree {
	t.Helper()
	program := os.Getenv(boxEnv)
	switch {
	case program == "":
		t.Skipf("%s is not set: no program that makes a tree with systemd", boxEnv)
	case os.Geteuid() != 0:
		t.Skip("not root: a tree with systemd cannot be made")
	}
	if _, err := exec.LookPath("debootstrap"); err != nil {
		t.Skip("debootstrap is not installed")
	}
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		cache = os.TempDir()
	}
	cache = filepath.Join(cache, "fdbroker-boxes")
	unlock := lockBoxes(t, cache, suite)
	defer unlock()
	b := tree{filepath.Join(cache, suite)}
	if _, err := os.Stat(b.dir); err != nil {
		makeTree(t, program, b.dir, suite)
	}
	if out, err := b.command("", "true").CombinedOutput(); err != nil {
		t.Skipf("programs of %s do not run here: %v\n%s", b.dir, err, out)
	}
	return b
}

// lockBoxes makes the directory of the trees, which must be nobody else's, and waits for its turn to make one.
func lockBoxes(t testing.TB, cache, suite string) (unlock func()) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(cache), 0o755); err != nil {
		t.Skip(err)
	}
	if err := os.Mkdir(cache, 0o700); err != nil && !os.IsExist(err) {
		t.Skip(err)
	}
	info, err := os.Lstat(cache)
	if err != nil {
		t.Fatal(err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || !info.IsDir() || st.Uid != 0 || info.Mode().Perm() != 0o700 {
		t.Fatalf("%s is not root's own: %v", cache, info.Mode())
	}
	f, err := os.OpenFile(filepath.Join(cache, suite+".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return func() { _ = f.Close() }
}

// makeTree makes a tree under another name first, so that there is never half of one. It
// has namespaces of its own: what it mounts and starts ends with it, and with the test.
func makeTree(t testing.TB, program, dir, suite string) {
	t.Helper()
	part := dir + ".part"
	if err := os.RemoveAll(part); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // whose end Pdeathsig means
	defer runtime.UnlockOSThread()
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc", program, "build", part, suite)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("cannot make a tree of %s: %v\n%s", suite, err, out)
	}
	if err := os.Rename(part, dir); err != nil {
		t.Fatal(err)
	}
}

// enter makes a directory of ours, and what every program needs, visible in the tree
// and runs a command there. The mounts end with it.
const enter = `
dir=$1 share=$2; shift 2
mount --rbind /proc "$dir/proc"
mount --rbind /dev "$dir/dev"
[ -z "$share" ] || mount --bind "$share" "$dir/mnt"
exec chroot "$dir" "$@"`

// command returns a command of the tree. It sees the directory share, if any, as /mnt,
// has our processes and network, and is the process that is started, not its child.
func (b tree) command(share string, args ...string) *exec.Cmd {
	cmd := exec.Command("unshare", append([]string{"--mount", "--propagation", "private", "sh", "-ec", enter, "sh", b.dir, share}, args...)...)
	cmd.Env = []string{"PATH=" + strings.Join([]string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}, ":"), "LC_ALL=C.UTF-8", "SYSTEMD_COLORS=0"}
	return cmd
}
