package socket_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/broker/socket/holders"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

var unixTypes = map[string]int{"unix": unix.SOCK_STREAM, "unixpacket": unix.SOCK_SEQPACKET, "unixgram": unix.SOCK_DGRAM}

// leaveStale leaves at path a socket that no process has, as a crash does.
func leaveStale(t *testing.T, path string, sotype int) {
	t.Helper()
	_ = os.Remove(path)
	fd, err := unix.Socket(unix.AF_UNIX, sotype|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
}

func TestStalePathIsReplaced(t *testing.T) {
	for network, sotype := range unixTypes {
		fdtest.CheckLeaks(t)
		path := filepath.Join(fdtest.SocketDir(t), "s")
		leaveStale(t, path, sotype)
		sock := open(t, "a="+network+"://"+path)
		dial(t, network, path)
		if err := sock.Close(); err != nil {
			t.Error(err)
		}
		if got := names(t, filepath.Dir(path)); got != "" {
			t.Errorf("%s: left behind: %s", network, got)
		}
	}
}

func TestLivePathIsRefused(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := fdtest.SocketDir(t)
	var specs []string
	for network := range unixTypes {
		specs = append(specs, "a="+network+"://"+filepath.Join(dir, network), "b="+network+"://@fdbroker-test-live-"+network)
	}
	cmd, _, end := hold(t, specs...)
	for _, spec := range specs {
		be := refused(t, spec)
		want := fmt.Sprintf("cannot bind %s: address already in use by pid %d (%s)", spec, cmd.Process.Pid, helperCommand())
		if be.Error() != want {
			t.Errorf("got %q, want %q", be, want)
		}
		if len(be.Holders) != 1 || be.Holders[0] != (holders.Process{PID: cmd.Process.Pid, Command: helperCommand()}) {
			t.Errorf("Holders: got %v", be.Holders)
		}
		if !errors.Is(be, unix.EADDRINUSE) {
			t.Errorf("%v is not EADDRINUSE", be)
		}
	}
	// One of another type is live as well, even with a full queue.
	refused(t, "c=unixgram://"+filepath.Join(dir, "unix"))
	end()
	for _, spec := range specs {
		open(t, spec) // the path that the process left is stale now
	}
}

// TestRefusalLeavesNoConnection: the look at a path that is in use leaves no connection in the queue there.
func TestRefusalLeavesNoConnection(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := fdtest.SocketDir(t) + "/s"
	for _, network := range []string{"unix", "unixpacket"} {
		first := open(t, "a="+network+"://"+path+network)
		if _, err := socket.Open(parse(t, "b=unix://"+path+network), socket.OpenConfig{}); !errors.Is(err, unix.EADDRINUSE) {
			t.Fatalf("%s: got %v", network, err)
		}
		if f, err := first.Figures(); err != nil || f.Queue != 0 {
			t.Errorf("%s: %d connections are queued, %v", network, f.Queue, err)
		}
	}
}

func TestFullQueueIsLive(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := filepath.Join(fdtest.SocketDir(t), "s")
	open(t, "a=unix://"+path+",backlog=1")
	dial(t, "unix", path)
	dial(t, "unix", path)
	if be := refused(t, "b=unix://"+path); !errors.Is(be, unix.EADDRINUSE) {
		t.Errorf("got %v", be)
	}
}

func TestPathInTheWay(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := fdtest.SocketDir(t)
	regular := filepath.Join(dir, "f")
	if err := os.WriteFile(regular, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "l")
	if err := os.Symlink("nowhere", link); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(dir, "p")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	before := names(t, dir)
	for _, test := range []struct{ path, want string }{
		{regular, regular + " exists and is a regular file, not a socket; remove it or choose another path"},
		{link, link + " exists and is a symbolic link, not a socket"},
		{fifo, fifo + " exists and is a special file, not a socket"},
		{dir, dir + " exists and is a directory, not a socket"},
		{filepath.Join(dir, "none", "s"), "there is no directory " + filepath.Join(dir, "none")},
		{filepath.Join(regular, "s"), regular + " is not a directory"},
	} {
		if be := refused(t, "a=unix://"+test.path); !strings.Contains(be.Error(), test.want) {
			t.Errorf("got %q, want it to have %q", be, test.want)
		}
	}
	if after := names(t, dir); after != before {
		t.Errorf("there was %s, now there is %s", before, after)
	}
	if text, err := os.ReadFile(regular); string(text) != "precious" || err != nil {
		t.Errorf("the file has %q now, %v", text, err)
	}
}

// TestOpenChecksSpec: a Spec made by hand has not passed the checks of spec.Parse.
func TestOpenChecksSpec(t *testing.T) {
	fdtest.CheckLeaks(t)
	for _, test := range []struct{ network, address, want string }{
		{"unix", "/tmp/" + strings.Repeat("x", 107), "at most 107 bytes"},
		{"unix", "@" + strings.Repeat("x", 107), "at most 107 bytes"},
		{"tcp7", ":1", `unknown network "tcp7"`},
		{"tcp", "nonsense", "missing port"},
		{"tcp", ":http", "invalid syntax"},
	} {
		sock, err := socket.Open(spec.Spec{Name: "a", Network: test.network, Address: test.address}, socket.OpenConfig{})
		if err == nil {
			_ = sock.Close()
			t.Errorf("%s was opened", test.address)
		} else if !strings.Contains(err.Error(), test.want) {
			t.Errorf("got %q, want it to have %q", err, test.want)
		}
	}
}

func TestCloseRemovesOnlyItsOwn(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := filepath.Join(fdtest.SocketDir(t), "s")
	first := open(t, "a=unix://"+path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	open(t, "b=unix://"+path)
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	dial(t, "unix", path)
	gone := open(t, "c=unix://"+path+"2")
	if err := os.Remove(path + "2"); err != nil {
		t.Fatal(err)
	}
	if err := gone.Close(); err != nil {
		t.Errorf("Close of one whose path is gone: %v", err)
	}
}

func TestFileOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to give files away")
	}
	fdtest.CheckLeaks(t)
	defer unix.Umask(unix.Umask(0o077))
	for network := range unixTypes {
		path := filepath.Join(fdtest.SocketDir(t), "s")
		open(t, "a="+network+"://"+path+",mode=0666,user=daemon,group=7")
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		if st.Uid != 1 || st.Gid != 7 || st.Mode != unix.S_IFSOCK|0o666 {
			t.Errorf("%s: got uid %d, gid %d, mode %o", network, st.Uid, st.Gid, st.Mode)
		}
	}
}

// TestRaceForStalePath opens several sockets at one stale path at once: one of them gets the path, and keeps it.
func TestRaceForStalePath(t *testing.T) {
	fdtest.CheckLeaks(t)
	for range 20 {
		path := filepath.Join(fdtest.SocketDir(t), "s")
		leaveStale(t, path, unix.SOCK_STREAM)
		spec := parse(t, "a=unix://"+path)
		var socks [6]*socket.Socket
		var wg sync.WaitGroup
		start := make(chan struct{})
		for i := range socks {
			wg.Go(func() {
				<-start
				sock, err := socket.Open(spec, socket.OpenConfig{})
				if err != nil && !errors.Is(err, unix.EADDRINUSE) {
					t.Error(err)
				}
				socks[i] = sock
			})
		}
		close(start)
		wg.Wait()
		won := 0
		for _, sock := range socks {
			if sock == nil {
				continue
			}
			won++
			reaches(t, path, sock)
			_ = sock.Close()
		}
		if won != 1 {
			t.Fatalf("%d of them have it", won)
		}
		if got := names(t, filepath.Dir(path)); got != "" {
			t.Fatalf("left behind: %s", got)
		}
	}
}

// TestLock: Open waits for a path that another process has locked, and uses a lock file that a crash left behind.
func TestLock(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := filepath.Join(fdtest.SocketDir(t), "s")
	lock, err := os.Create(path + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	spec := parse(t, "a=unix://"+path)
	opened := make(chan error)
	go func() {
		sock, err := socket.Open(spec, socket.OpenConfig{})
		if err == nil {
			err = sock.Close()
		}
		opened <- err
	}()
	select {
	case err := <-opened:
		t.Errorf("it did not wait: %v", err)
	case <-time.After(20 * time.Millisecond):
		_ = lock.Close() // the lock goes with it, the file stays
		if err := <-opened; err != nil {
			t.Error(err)
		}
	}
	if got := names(t, filepath.Dir(path)); got != "" {
		t.Errorf("left behind: %s", got)
	}
}

// TestLockOfAnother: Open does not wait for a lock file of another user if it is locked, and uses it if it is not.
func TestLockOfAnother(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := fdtest.SocketDir(t) + "/s"
	unlock := fdtest.LockAs(t, path+".lock", 12345)
	be := refused(t, "a=unix://"+path)
	if want := "its lock file " + path + ".lock belongs to uid 12345"; !strings.Contains(be.Error(), want) {
		t.Errorf("got %v, want %s", be, want)
	}
	if got := names(t, filepath.Dir(path)); got != "s.lock" {
		t.Errorf("there are files: %s", got)
	}
	unlock()
	if err := open(t, "a=unix://"+path).Close(); err != nil {
		t.Error(err)
	}
	if got := names(t, filepath.Dir(path)); got != "" {
		t.Errorf("left behind: %s", got)
	}
}

// reaches checks that a client of path lands in sock's queue.
func reaches(t *testing.T, path string, sock *socket.Socket) {
	t.Helper()
	before, err := sock.Figures()
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	if after, err := sock.Figures(); err != nil || after.Queue != before.Queue+1 {
		t.Errorf("the path leads to another socket: queue %d, then %d (%v)", before.Queue, after.Queue, err)
	}
}
