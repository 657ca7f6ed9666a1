package systemdtest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

const (
	treeEnv = "FDTEST_TREE" // set in the namespaces of the test: the tree to start
	module  = "github.com/fdbroker/fdbroker"
)

// box is a tree with a systemd that runs, and what is installed there.
type box struct {
	t       *testing.T
	dir     string
	version int // of systemd
}

// isolated runs the calling test again in namespaces of its own, in which all ports are
// free and of which nothing is left at its end, and reports whether it is there now.
func isolated(t *testing.T, tree func() string) (inside bool) {
	t.Helper()
	if os.Getenv(treeEnv) != "" {
		return true
	}
	flags := []string{"--net", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"}
	if out, err := exec.Command("unshare", append(flags, "true")...).CombinedOutput(); err != nil {
		t.Skipf("no namespaces here: %v\n%s", err, out)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", append(flags, exe, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")...)
	cmd.Env = append(os.Environ(), treeEnv+"="+tree())
	runtime.LockOSThread() // whose end Pdeathsig means
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil:
		t.Errorf("%v\n%s", err, out)
	case bytes.Contains(out, []byte("--- SKIP: "+t.Name())):
		t.Skipf("%s", out)
	default:
		t.Logf("%s", out)
	}
	return false
}

// newTree returns a copy of a tree with the systemd of a Debian suite, with what the units need.
func newTree(t *testing.T, suite string) string {
	t.Helper()
	from := systemdTree(t, suite).dir
	dir := filepath.Join(fdtest.SocketDir(t), "box")
	if out, err := exec.Command("cp", "-a", "--reflink=auto", from, dir).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
	build(t, dir+"/usr/local/bin/", "./cmd/...")
	build(t, dir+"/usr/local/bin/server", "./internal/realservers/testdata/go")
	build(t, dir+"/usr/local/bin/", "./examples/http")
	for from, to := range map[string]string{
		"fdbroker.service": "/etc/systemd/system/", "fdbroker.socket": "/etc/systemd/system/", "worker@.service": "/etc/systemd/system/",
		"workers.service": "/etc/systemd/system/",
		"fdbroker.conf":   "/etc/", "sysusers.conf": "/etc/sysusers.d/fdbroker.conf",
	} {
		cmd := exec.Command("install", "-D", "-m", "644", "examples/systemd/"+from, "-t", dir+to)
		if !strings.HasSuffix(to, "/") {
			cmd.Args = append(cmd.Args[:4], "examples/systemd/"+from, dir+to)
		}
		cmd.Dir = root(t)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("install %s: %v\n%s", from, err, out)
		}
	}
	return dir
}

// root returns the module's directory.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// build builds commands that need nothing of the tree they run in.
func build(t *testing.T, to string, packages ...string) {
	t.Helper()
	cmd := exec.Command("go", append([]string{"build", "-o", to}, packages...)...)
	cmd.Dir = root(t)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
}

// boot starts the tree's systemd; the test's end stops it.
func boot(t *testing.T) *box {
	t.Helper()
	loopbackUp(t)
	b := &box{t: t, dir: os.Getenv(treeEnv)}
	program := os.Getenv(boxEnv)
	if out, err := exec.Command(program, "boot", b.dir).CombinedOutput(); err != nil {
		console, _ := os.ReadFile(b.dir + ".box/console")
		t.Skipf("systemd does not start here: %v\n%s\n%s", err, out, console)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(b.run("journalctl", "--no-pager", "-o", "short-precise", "-u", "fdbroker.service", "-u", "worker@*", "-u", "workers.service", "-u", "fdbroker.socket"))
		}
		_ = exec.Command(program, "stop", b.dir).Run()
	})
	if _, err := fmt.Sscanf(b.do("systemctl", "--version"), "systemd %d", &b.version); err != nil {
		t.Fatal(err)
	}
	return b
}

func loopbackUp(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		t.Fatal(err)
	}
}

// run runs a command in the box.
func (b *box) run(args ...string) (string, error) {
	out, err := exec.Command(os.Getenv(boxEnv), append([]string{"run", b.dir}, args...)...).CombinedOutput()
	return string(out), err
}

// do runs a command that must succeed, and returns what it prints.
func (b *box) do(args ...string) string {
	b.t.Helper()
	out, err := b.run(args...)
	if err != nil {
		b.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// configure writes the broker's configuration.
func (b *box) configure(specs ...string) {
	b.t.Helper()
	if err := os.WriteFile(b.dir+"/etc/fdbroker.conf", []byte(strings.Join(specs, "\n")+"\n"), 0o644); err != nil {
		b.t.Fatal(err)
	}
}
