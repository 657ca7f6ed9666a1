package peer_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server/peer"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/scmrights"
)

func TestMain(m *testing.M) {
	fdtest.Main(m, map[string]func([]string) int{"connect": connectHelper})
}

// connectHelper becomes the user args[1], connects to the socket at args[0], and ends with its standard input.
func connectHelper(args []string) int {
	if id, _ := strconv.Atoi(args[1]); id != 0 {
		if err := errors.Join(syscall.Setgroups([]int{id, id + 1}), syscall.Setgid(id), syscall.Setuid(id)); err != nil {
			return 1
		}
	}
	c, err := net.Dial("unix", args[0])
	if err != nil {
		return 1
	}
	defer c.Close()
	fmt.Println("connected")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// child starts a process that connects to this one, and returns the accepted connection;
// end ends the process and waits for it. The process becomes the user uid, unless that is 0.
func child(t *testing.T, uid int) (conn *scmrights.FD, pid int, end func()) {
	t.Helper()
	dir := fdtest.SocketDir(t)
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: dir + "/s"})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(dir+"/s", 0o777)); err != nil {
		t.Fatal(err)
	}
	cmd := fdtest.Helper(t, "connect", dir+"/s", strconv.Itoa(uid))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "connected\n" {
		t.Fatalf("%q, %v", line, err)
	}
	c, err := ln.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	f, err := c.File()
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	n, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	conn = scmrights.NewFD(n)
	t.Cleanup(func() { _ = conn.Close() })
	return conn, cmd.Process.Pid, func() { _ = stdin.Close(); _ = cmd.Wait() }
}

// credentials returns those of a connection.
func credentials(t *testing.T, conn *scmrights.FD) peer.Credentials {
	t.Helper()
	who, err := peer.Of(conn)
	if err != nil {
		t.Fatal(err)
	}
	return who
}

// TestOfConn: the process of a connection has one identity, however it is looked up, and
// is known to have ended from then on.
func TestOfConn(t *testing.T) {
	fdtest.CheckLeaks(t)
	conn, pid, end := child(t, 0)
	who := credentials(t, conn)
	if want := (peer.Credentials{PID: pid, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}); who != want {
		t.Errorf("got %+v, want %+v", who, want)
	}
	p, err := peer.OfConn(conn, who)
	if err != nil {
		t.Fatal(err)
	}
	defer p.FD.Close()
	again, also, err := peer.WithPID(pid)
	if err != nil {
		t.Fatal(err)
	}
	_ = again.FD.Close()
	if again.ID != p.ID || p.ID == (peer.ID{}) || also != who {
		t.Errorf("%+v, %+v; then %+v, %+v", p.ID, who, again.ID, also)
	}
	self, _, err := peer.WithPID(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	_ = self.FD.Close()
	if self.ID == p.ID {
		t.Errorf("two processes are %+v", p.ID)
	}
	if peer.Exited(p.FD) || peer.HungUp(conn) {
		t.Error("it has ended")
	}
	end()
	if !peer.Exited(p.FD) || !peer.HungUp(conn) {
		t.Error("it has not ended")
	}
	if _, err := peer.OfConn(conn, who); !errors.Is(err, peer.ErrExited) {
		t.Errorf("OfConn: %v", err)
	}
	if _, _, err := peer.WithPID(pid); !errors.Is(err, peer.ErrExited) {
		t.Errorf("WithPID: %v", err)
	}
	if err := peer.Signal(p.FD, who, unix.SIGTERM); !errors.Is(err, peer.ErrExited) {
		t.Errorf("Signal: %v", err)
	}
}

// TestClosed: a closed descriptor is that of no process and no connection.
func TestClosed(t *testing.T) {
	fdtest.CheckLeaks(t)
	p, who, err := peer.WithPID(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	_ = p.FD.Close()
	if !peer.Exited(p.FD) || !peer.HungUp(p.FD) {
		t.Error("it is in use")
	}
	if _, err := peer.Of(p.FD); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Of: %v", err)
	}
	if _, err := peer.OfConn(p.FD, who); !errors.Is(err, os.ErrClosed) {
		t.Errorf("OfConn: %v", err)
	}
}

// TestSignal: a process gets the signals that its first user may send it, and no other.
func TestSignal(t *testing.T) {
	fdtest.CheckLeaks(t)
	conn, _, end := child(t, 0)
	defer end()
	who := credentials(t, conn)
	p, err := peer.OfConn(conn, who)
	if err != nil {
		t.Fatal(err)
	}
	defer p.FD.Close()
	other := who
	other.UID = 12345
	if err := peer.Signal(p.FD, other, unix.SIGKILL); !errors.Is(err, peer.ErrNotAllowed) {
		t.Errorf("another user: %v", err)
	}
	if peer.Exited(p.FD) {
		t.Error("another user's signal has reached it")
	}
	if err := peer.Signal(p.FD, who, unix.SIGKILL); err != nil {
		t.Error(err)
	}
	fdtest.Eventually(t, "it has ended", func() bool { return peer.Exited(p.FD) })
}

// TestSignalOfItsUser: a user who is not root may signal a process of its own.
func TestSignalOfItsUser(t *testing.T) {
	fdtest.CheckLeaks(t)
	if os.Geteuid() != 0 {
		t.Skip("needs root to start a process of another user")
	}
	const user = 54321
	conn, _, end := child(t, user)
	defer end()
	who := credentials(t, conn)
	if who.UID != user || who.GID != user {
		t.Errorf("got %+v", who)
	}
	groups := peer.Groups(conn, who.GID)
	if groups[0] != user || !slices.Contains(groups[1:], user+1) {
		t.Errorf("groups %v", groups)
	}
	p, err := peer.OfConn(conn, who)
	if err != nil {
		t.Fatal(err)
	}
	defer p.FD.Close()
	if err := peer.Signal(p.FD, who, unix.SIGKILL); err != nil {
		t.Error(err)
	}
	fdtest.Eventually(t, "it has ended", func() bool { return peer.Exited(p.FD) })
}

// TestSameUser: a uid that may stand for any user is nobody's.
func TestSameUser(t *testing.T) {
	alice, bob, overflow := peer.Credentials{UID: 1}, peer.Credentials{UID: 2}, peer.Credentials{UID: peer.OverflowID}
	if !alice.SameUser(alice) || alice.SameUser(bob) || overflow.SameUser(overflow) {
		t.Error("only two credentials with one known uid are those of one user")
	}
}

// TestExitWatcher: each end is reported once, that of a process which has ended before too, and none after Remove.
func TestExitWatcher(t *testing.T) {
	fdtest.CheckLeaks(t)
	w, err := peer.NewExitWatcher()
	if err != nil {
		t.Fatal(err)
	}
	reports := make(chan int64, 10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(func(ids []int64) {
			for _, id := range ids {
				reports <- id
			}
		})
	}()
	const big = 1 << 40
	var pidfds []*scmrights.FD
	var ends []func()
	for range 3 {
		conn, _, end := child(t, 0)
		p, err := peer.OfConn(conn, credentials(t, conn))
		if err != nil {
			t.Fatal(err)
		}
		pidfds, ends = append(pidfds, p.FD), append(ends, end)
	}
	add := func(i int) {
		if err := w.Add(big+int64(i), pidfds[i]); err != nil {
			t.Error(err)
		}
	}
	add(0)
	add(1)
	if w.Add(big, pidfds[0]) == nil {
		t.Error("a pidfd was added twice")
	}
	w.Remove(pidfds[0])
	ends[0]()
	ends[2]()
	add(2)
	if id := <-reports; id != big+2 {
		t.Errorf("got %d", id-big)
	}
	ends[1]()
	if id := <-reports; id != big+1 {
		t.Errorf("got %d", id-big)
	}
	w.Close()
	w.Close()
	<-done
	if len(reports) > 0 {
		t.Errorf("then got %d", <-reports)
	}
	scmrights.CloseAll(pidfds)
}

// TestContinues: a process is the one that it was by its inode, or else by its pid and start, if that was known.
func TestContinues(t *testing.T) {
	for _, c := range []struct {
		was, is peer.ID
		want    bool
	}{
		{peer.ID{Inode: 7}, peer.ID{Inode: 7}, true},
		{peer.ID{Inode: 7}, peer.ID{Inode: 8}, false},
		{peer.ID{PID: 5, Start: 9}, peer.ID{PID: 5, Start: 9}, true},
		{peer.ID{PID: 5, Start: 9}, peer.ID{PID: 5, Start: 10}, false},
		{peer.ID{PID: 5, Start: 9}, peer.ID{PID: 5}, false}, // hidden by now
		{peer.ID{PID: 5}, peer.ID{PID: 5}, true},
		{peer.ID{PID: 5}, peer.ID{PID: 5, Start: 9}, true}, // hidden then
		{peer.ID{PID: 5}, peer.ID{PID: 6, Start: 9}, false},
		{peer.ID{PID: 5}, peer.ID{Inode: 7}, false},
	} {
		if got := c.is.Continues(c.was); got != c.want {
			t.Errorf("%+v, then %+v: %t", c.was, c.is, got)
		}
	}
}
