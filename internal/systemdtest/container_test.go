package systemdtest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// A container is what docs/containers.md makes of unshare: no network, processes and
// mounts of its own, and of the host's files the broker's directory alone.
const container = `
root=$1 run=$2; shift 2
mount -t tmpfs none "$root"
mkdir -p "$root/run/fdbroker" "$root/bin" "$root/proc"
mount --bind "$run" "$root/run/fdbroker"
mount --bind "$BIN" "$root/bin"
mount -t proc none "$root/proc"
exec chroot "$root" "$@"
`

// TestContainers: workers in containers without a network serve the host's port.
func TestContainers(t *testing.T) {
	if !isolated(t, func() string { return buildContainer(t) }) {
		return
	}
	loopbackUp(t)
	bin := os.Getenv(treeEnv)
	for _, c := range []struct {
		name string
		// own is whether the broker has a pid namespace that is not above the worker's.
		own bool
	}{{"the broker sees its workers", false}, {"the broker is in a container too", true}} {
		t.Run(c.name, func(t *testing.T) { testContainers(t, bin, c.own) })
	}
}

func buildContainer(t *testing.T) string {
	dir := filepath.Join(fdtest.SocketDir(t), "bin")
	build(t, dir+"/", "./cmd/...")
	build(t, dir+"/server", "./internal/realservers/testdata/go")
	build(t, dir+"/", "./examples/http")
	return dir
}

func testContainers(t *testing.T, bin string, own bool) {
	run := fdtest.SocketDir(t)
	args := []string{bin + "/fdbroker", "--bind", "web=" + address, "--bind", "blue=127.0.0.1:81", "--socket", run + "/control", "--log-level", "warn"}
	if own {
		args = append([]string{"unshare", "--pid", "--fork", "--kill-child", "--mount-proc"}, args...)
	}
	start(t, exec.Command(args[0], args[1:]...))
	c := broker.Client{Socket: run + "/control"}
	defer c.Close()
	fdtest.Eventually(t, "the broker answers", func() bool {
		_, err := c.Info(context.Background())
		return err == nil
	})
	contain := func(args ...string) int {
		cmd := exec.Command("unshare", append([]string{"--net", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child",
			"/bin/sh", "-ec", container, "sh", t.TempDir(), run}, args...)...)
		cmd.Env = append(os.Environ(), "BIN="+bin, "FDBROKER_SOCKET=/run/fdbroker/control")
		start(t, cmd)
		return cmd.Process.Pid
	}

	// fdclient get asks for a grant that lasts as long as its process. Where that
	// cannot be seen, it lasts as long as the connection, which exec closes.
	outer := contain("/bin/fdclient", "get", "--wait", "web", "--", "/bin/server")
	answer := eventuallyAsk(t, address)
	if strings.TrimSpace(answer) != "1" {
		t.Errorf("%q answers, which is not the first process of a container", answer)
	}
	// Dial asks for one that lasts as long as the connection, wherever it is.
	contain("/bin/http", "-name", "blue")
	if answer := eventuallyAsk(t, "127.0.0.1:81"); answer != "hello from process 1\n" {
		t.Errorf("%q answers", answer)
	}
	if _, err := net.Dial("tcp", "127.0.0.1:82"); err == nil {
		t.Error("there is another port")
	}
	holders := make(map[string]protocol.Holder)
	fdtest.Eventually(t, "the server holds its listener, where the broker can see it", func() bool {
		list, err := c.List(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		clear(holders)
		for _, h := range list.Holders {
			holders[h.Names[0]] = h
		}
		_, held := holders["web"]
		return held != own // the connection's end, by which a grant ends, may take a moment to be noticed
	})
	web, blue := holders["web"], holders["blue"]
	switch {
	case own && (blue.PID != 0 || !blue.Connection):
		t.Errorf("Dial's: %+v", blue)
	case !own && (web.PID != childOf(t, outer) || web.Connection || web.Command != "/bin/server"):
		t.Errorf("the server's, whose pid here is %d: %+v", childOf(t, outer), web)
	case !own && (blue.PID == 0 || blue.PID == 1 || !blue.Connection):
		t.Errorf("Dial's: %+v", blue)
	}
}

// start starts a command, which the test's end kills, and all that it has started.
func start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		fdtest.Stop(cmd.Process, func() { _ = cmd.Wait() })
	})
}

func eventuallyAsk(t *testing.T, address string) (answer string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	if answer, err = exchange(conn); err != nil {
		t.Fatal(err)
	}
	return answer
}

// childOf returns the one child of a process.
func childOf(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Fatal(err)
	}
	child := 0
	if _, err := fmt.Sscan(string(text), &child); err != nil {
		t.Fatal(err)
	}
	return child
}
