package control_test

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

	"github.com/fdbroker/fdbroker/broker/server/control"
	"github.com/fdbroker/fdbroker/broker/socket/sockfile"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	fdtest.Main(m, map[string]func([]string) int{"control": controlHelper})
}

// controlHelper takes the control socket at args[0] once its standard input has a line, prints whether it has the
// socket, and keeps it until its standard input ends. Then it ends without Close, as in a crash.
func controlHelper(args []string) int {
	stdin := bufio.NewReader(os.Stdin)
	if _, err := stdin.ReadString('\n'); err != nil {
		return 1
	}
	if _, err := control.Listen(control.Config{Path: args[0]}); err != nil {
		fmt.Println(err)
		return 0
	}
	fmt.Println("won")
	_, _ = io.Copy(io.Discard, stdin)
	return 0
}

// listen takes the control socket, which the test's end gives up.
func listen(t testing.TB, c control.Config) *control.Control {
	t.Helper()
	ctl, err := control.Listen(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ctl.Close() })
	return ctl
}

func TestListen(t *testing.T) {
	fdtest.CheckLeaks(t)
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	dir := filepath.Join(fdtest.SocketDir(t), "new")
	path := filepath.Join(dir, "c")
	gid := os.Getgid()
	if os.Geteuid() == 0 {
		gid = 61010
	}
	for _, c := range []struct{ set, want os.FileMode }{{0, 0o600}, {0o666, 0o666}, {0o660, 0o660}} {
		ctl := listen(t, control.Config{Path: path, Mode: c.set, GID: &gid})
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

// TestExposed: a user who can replace the control socket is named; in a directory like /tmp no other user can.
func TestExposed(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := fdtest.SocketDir(t)
	ctl := listen(t, control.Config{Path: filepath.Join(dir, "c")})
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

func TestListenRefusesPaths(t *testing.T) {
	fdtest.CheckLeaks(t)
	for _, path := range []string{"", "@abstract", "/nonexistent/dir/c", filepath.Join(fdtest.SocketDir(t), strings.Repeat("x", 100))} {
		if ctl, err := control.Listen(control.Config{Path: path}); err == nil {
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
	ctl := listen(t, control.Config{Path: path})
	_, err := control.Listen(control.Config{Path: path})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("pid %d", os.Getpid())) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
	// The lock alone counts, not the socket.
	_ = os.Remove(path)
	if _, err := control.Listen(control.Config{Path: path}); err == nil {
		t.Error("a second broker started while the first one's socket was missing")
	}
	if err := ctl.Close(); err != nil {
		t.Error(err)
	}
}

// TestLockOfAnother: a lock file that another user has made and locked does not mean that there is another broker.
func TestLockOfAnother(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := filepath.Join(fdtest.SocketDir(t), "c")
	fdtest.LockAs(t, path+".lock", 12345)
	_, err := control.Listen(control.Config{Path: path})
	if want := "its lock file " + path + ".lock belongs to uid 12345"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
	if err := os.Remove(path + ".lock"); err != nil {
		t.Fatal(err)
	}
	_ = listen(t, control.Config{Path: path}).Close()
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
	if _, err := control.Listen(control.Config{Path: path}); err == nil || !strings.Contains(err.Error(), "answers") {
		t.Errorf("somebody listens: %v", err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("another program's socket was removed: %v", err)
	}
	_ = foreign.Close() // stale now
	ctl := listen(t, control.Config{Path: path})
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	// Close removes only the file of its own socket.
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
		t.Errorf("another program's file: %q, %v", b, err)
	}
	_, err = control.Listen(control.Config{Path: path})
	if err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("a file: %v", err)
	}
	if b, err := os.ReadFile(path); string(b) != "mine" {
		t.Errorf("the file: %q, %v", b, err)
	}
}

// TestManyBrokersAtOnce: of brokers that start at once on a stale socket, one wins; when
// it crashes, the next one can start.
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
	listen(t, control.Config{Path: path})
}

// restored returns the descriptor of a control socket that the store keeps, and its file.
func restored(t *testing.T, ctl *control.Control) *control.Restored {
	t.Helper()
	fd, err := ctl.Listener.Dup()
	if err != nil {
		t.Fatal(err)
	}
	return &control.Restored{FD: fd, File: ctl.File(), Path: ctl.Path()}
}

// TestRestored: a broker goes on with the control socket of an earlier one, at which a
// client waits, and gives it mode and group anew.
func TestRestored(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := filepath.Join(fdtest.SocketDir(t), "c")
	first := listen(t, control.Config{Path: path, Mode: 0o666})
	client, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	r := restored(t, first)
	first.Release()
	first.Release()
	if _, err := os.Lstat(path + ".lock"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the lock is left: %v", err)
	}
	if r.File == (sockfile.FileID{}) {
		t.Error("its file is unknown")
	}
	next := listen(t, control.Config{Path: path, Mode: 0o640, Restored: r})
	if next.File() != first.File() || r.FD != nil {
		t.Error("it has another socket")
	}
	if st, err := os.Lstat(path); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if err := next.Listener.Control(func(n uintptr) {
		conn, _, err := unix.Accept4(int(n), unix.SOCK_CLOEXEC)
		if err != nil {
			t.Errorf("nothing waits: %v", err)
			return
		}
		_ = unix.Close(conn)
	}); err != nil {
		t.Error(err)
	}
	// Of no use at another path, or for another file there.
	for _, r := range []*control.Restored{
		{File: next.File(), Path: path + "2"},
		{File: sockfile.FileID{Dev: 1, Ino: 1}, Path: path},
		{},
	} {
		if r.FD, err = next.Listener.Dup(); err != nil {
			t.Fatal(err)
		}
		other := listen(t, control.Config{Path: path + "2", Restored: r})
		if other.File() == next.File() {
			t.Errorf("%+v was used", r)
		}
		if err := r.FD.Control(func(uintptr) {}); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%+v was not closed", r)
		}
		if err := other.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := next.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

// TestReplacedControlIsLeftAlone: if another file is in the place of the control socket of an earlier broker, that file
// keeps its mode, whether or not it is known which file the socket's was.
func TestReplacedControlIsLeftAlone(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := fdtest.SocketDir(t)
	path, victim := dir+"/c", dir+"/victim"
	if err := os.WriteFile(victim, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	first := listen(t, control.Config{Path: path, Mode: 0o666})
	known := restored(t, first)
	unknown := &control.Restored{FD: restored(t, first).FD}
	first.Release()
	if err := errors.Join(os.Remove(path), os.Symlink(victim, path)); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	known.File = sockfile.FileID{Dev: uint64(st.Dev), Ino: st.Ino} // as a path that was exchanged earlier
	for _, r := range []*control.Restored{known, unknown, nil} {
		if _, err := control.Listen(control.Config{Path: path, Mode: 0o666, Restored: r}); err == nil {
			t.Errorf("the symbolic link was taken for a control socket, restored %+v", r)
		}
	}
	if st, err := os.Stat(victim); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the other file: %v, %v", st.Mode(), err)
	}
	if to, err := os.Readlink(path); err != nil || to != victim {
		t.Errorf("the symbolic link: %s, %v", to, err)
	}
}

// TestListenWithoutItsGroup: if the socket's file cannot be given its group, it is removed.
func TestListenWithoutItsGroup(t *testing.T) {
	fdtest.CheckLeaks(t)
	if os.Geteuid() == 0 {
		t.Skip("root may give any group")
	}
	none := 1<<31 - 2 // a gid that no user but root may give a file
	dir := fdtest.SocketDir(t)
	if _, err := control.Listen(control.Config{Path: dir + "/c", GID: &none}); err == nil {
		t.Fatal("it has the group")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
