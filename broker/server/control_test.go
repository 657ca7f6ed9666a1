package server_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// give makes a directory another user's.
func give(t testing.TB, path string, uid uint32) {
	t.Helper()
	if err := errors.Join(os.Chmod(path, 0o755), os.Chown(path, int(uid), int(uid))); err != nil {
		t.Fatal(err)
	}
}

// controlHelper takes the control socket at args[0] once its standard input says so, prints whether it has,
// and keeps it until its standard input ends. Then it ends as in a crash.
func controlHelper(args []string) int {
	if _, err := readLine(os.Stdin); err != nil {
		return 1
	}
	if _, err := server.ListenControl(server.ControlConfig{Path: args[0]}); err != nil {
		fmt.Println(err)
		return 0
	}
	fmt.Println("won")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// control takes the control socket, which the test's end gives up.
func control(t testing.TB, c server.ControlConfig) *server.Control {
	t.Helper()
	ctl, err := server.ListenControl(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ctl.Close() })
	return ctl
}

func TestListenControl(t *testing.T) {
	fdtest.CheckLeaks(t)
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	dir := filepath.Join(fdtest.SocketDir(t), "new")
	path := filepath.Join(dir, "c")
	gid := os.Getgid()
	if os.Geteuid() == 0 {
		gid = staff
	}
	for _, c := range []struct{ set, want os.FileMode }{{0, 0o600}, {0o666, 0o666}, {0o660, 0o660}} {
		ctl := control(t, server.ControlConfig{Path: path, Mode: c.set, GID: &gid})
		st, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != c.want || st.Mode().Type() != os.ModeSocket || int(st.Sys().(*syscall.Stat_t).Gid) != gid {
			t.Errorf("mode %v, gid %d; want %v, %d", st.Mode(), st.Sys().(*syscall.Stat_t).Gid, c.want, gid)
		}
		if err := ctl.Close(); err != nil {
			t.Fatal(err)
		}
		if err := ctl.Close(); err != nil {
			t.Errorf("Close again: %v", err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("the directory: %v, %v", st.Mode(), err)
	}
}

// TestExposed: a user who can replace the control socket is named; in a directory like /tmp no other user
// can.
func TestExposed(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := fdtest.SocketDir(t)
	ctl := control(t, server.ControlConfig{Path: filepath.Join(dir, "c")})
	for _, c := range []struct {
		mode os.FileMode
		uid  int
		want string
	}{
		{0o755, os.Geteuid(), ""},
		{0o777 | os.ModeSticky, os.Geteuid(), ""},
		{0o777, os.Geteuid(), "everybody may write to " + dir},
		{0o755, 12345, dir + " belongs to uid 12345"},
	} {
		if c.uid != os.Geteuid() && os.Geteuid() != 0 {
			continue // needs root to give directories away
		}
		if err := errors.Join(os.Chmod(dir, c.mode), os.Chown(dir, c.uid, -1)); err != nil {
			t.Fatal(err)
		}
		if got := ctl.Exposed(); !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
			t.Errorf("mode %v, uid %d: got %q, want %q", c.mode, c.uid, got, c.want)
		}
	}
	if err := os.Chown(dir, os.Geteuid(), -1); err != nil {
		t.Fatal(err)
	}
}

func TestListenControlRefusesWhatIsNoPath(t *testing.T) {
	fdtest.CheckLeaks(t)
	for _, path := range []string{"", "@abstract", "/nonexistent/dir/c", filepath.Join(fdtest.SocketDir(t), strings.Repeat("x", 100))} {
		if ctl, err := server.ListenControl(server.ControlConfig{Path: path}); err == nil {
			t.Errorf("%q was taken", path)
			_ = ctl.Close()
		}
		if _, err := os.Lstat(path + ".lock"); !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENAMETOOLONG) {
			t.Errorf("%q: the lock is left: %v", path, err)
		}
	}
}

func TestSecondBroker(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := filepath.Join(fdtest.SocketDir(t), "c")
	ctl := control(t, server.ControlConfig{Path: path})
	_, err := server.ListenControl(server.ControlConfig{Path: path})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("pid %d", os.Getpid())) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
	// The lock alone counts, not the socket.
	_ = os.Remove(path)
	if _, err := server.ListenControl(server.ControlConfig{Path: path}); err == nil {
		t.Error("a second broker started while the first one's socket was missing")
	}
	if err := ctl.Close(); err != nil {
		t.Error(err)
	}
}

// TestLockOfAnother: a lock file that another user has made and locked does not mean that there is another
// broker.
func TestLockOfAnother(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := filepath.Join(fdtest.SocketDir(t), "c")
	fdtest.LockAs(t, path+".lock", 12345)
	_, err := server.ListenControl(server.ControlConfig{Path: path})
	if want := "its lock file " + path + ".lock belongs to uid 12345"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
	if err := os.Remove(path + ".lock"); err != nil {
		t.Fatal(err)
	}
	_ = control(t, server.ControlConfig{Path: path}).Close()
}

func TestStaleAndForeignSockets(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := filepath.Join(fdtest.SocketDir(t), "c")
	foreign, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	foreign.SetUnlinkOnClose(false)
	if _, err := server.ListenControl(server.ControlConfig{Path: path}); err == nil || !strings.Contains(err.Error(), "answers") {
		t.Errorf("somebody listens: %v", err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("another's socket was removed: %v", err)
	}
	_ = foreign.Close() // stale now
	ctl := control(t, server.ControlConfig{Path: path})
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	// Close removes only what is its own.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ctl.Close(); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(path); string(b) != "mine" {
		t.Errorf("another's file: %q, %v", b, err)
	}
	_, err = server.ListenControl(server.ControlConfig{Path: path})
	if err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file: %v", err)
	}
	if b, err := os.ReadFile(path); string(b) != "mine" {
		t.Errorf("the file: %q, %v", b, err)
	}
}

// Of brokers that start at once on a stale socket one wins. If it crashes, the next one can start.
func TestManyBrokersAtOnce(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := filepath.Join(fdtest.SocketDir(t), "c")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	_ = stale.Close()
	const many = 20
	var cmds []*exec.Cmd
	var stdins []io.WriteCloser
	var outs []*bufio.Reader
	for range many {
		cmd := fdtest.Helper(t, "control", path)
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds, stdins, outs = append(cmds, cmd), append(stdins, stdin), append(outs, bufio.NewReader(out))
	}
	for _, stdin := range stdins {
		_, _ = io.WriteString(stdin, "go\n")
	}
	answers := make([]string, many)
	var wg sync.WaitGroup
	for i, out := range outs {
		wg.Go(func() { answers[i], _ = out.ReadString('\n') })
	}
	wg.Wait()
	won := 0
	for _, a := range answers {
		switch {
		case a == "won\n":
			won++
		case !strings.Contains(a, "another broker"):
			t.Errorf("got %q", a)
		}
	}
	if won != 1 {
		t.Errorf("%d won", won)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Errorf("the winner does not answer: %v", err)
	} else {
		_ = c.Close()
	}
	for i, cmd := range cmds {
		_ = stdins[i].Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	control(t, server.ControlConfig{Path: path})
}
