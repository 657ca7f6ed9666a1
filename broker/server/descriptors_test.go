package server_test

import (
	"bufio"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// startLimited starts a broker in a process that may open so many more files, and returns its control socket.
func startLimited(t *testing.T, more string) (path string, stop func()) {
	t.Helper()
	path = filepath.Join(fdtest.SocketDir(t), "c")
	if err := os.Chmod(filepath.Dir(path), 0o711); err != nil {
		t.Fatal(err)
	}
	return path, startHelper(t, fdtest.Helper(t, "broker", path, `["a=127.0.0.1:0,allow=any"]`, more))
}

// dialAs connects as a user.
func dialAs(t *testing.T, path string, uid int) *client {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	set := func(uid int) {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
			t.Fatal(errno) // of this thread only
		}
	}
	set(uid)
	defer set(0)
	return dialClient(t, path)
}

// TestDescriptorsForRoot: where few files may be open, users without privilege cannot take all descriptors from root.
func TestDescriptorsForRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to be another user")
	}
	fdtest.CheckLeaks(t)
	path, stop := startLimited(t, "100")
	var clients []*client
	for _, limit := range []string{"clients of one user", "open files (raise ulimit -n, or LimitNOFILE=)"} {
		uid := alice
		if len(clients) > 0 {
			uid = bob
		}
		for {
			c := dialAs(t, path, uid)
			clients = append(clients, c)
			_ = c.conn.Send(encode(t, getMore(protocol.GetParameters{Names: []string{"a"}}))) // it may be refused already
			r, _ := c.reply()
			err := r.Err
			if err == nil {
				continue
			}
			if l, ok := errors.AsType[*protocol.LimitError](err); !ok || l.Limit != limit {
				t.Fatalf("client %d: %v, want the limit of %s", len(clients), err, limit)
			}
			break
		}
	}
	if len(clients) < 40 {
		t.Errorf("%d clients only", len(clients))
	}
	root := dialClient(t, path)
	root.alive()
	root.send(get("a"))
	root.got()
	for _, c := range clients {
		c.close()
	}
	fdtest.Eventually(t, "others are served again", func() bool {
		c := dialAs(t, path, bob)
		defer c.close()
		c.send(get("a"))
		r, _ := c.reply()
		err := r.Err
		return err == nil
	})
	stop()
}

// TestAnswersWithoutDescriptors: when root's own clients have taken all descriptors, those that come are served with one
// call, and nobody waits without an answer. Others are told.
func TestAnswersWithoutDescriptors(t *testing.T) {
	fdtest.CheckLeaks(t)
	path, stop := startLimited(t, "20")
	var idle []*client
	for range 30 {
		c := dialClient(t, path)
		c.send(method(protocol.MethodGetInfo, nil))
		idle = append(idle, c)
	}
	var held []*client
	for i, c := range idle {
		_ = c.uc.SetReadDeadline(time.Now().Add(patience))
		if _, err := bufio.NewReader(c.uc).ReadBytes(0); err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
		_ = c.uc.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if _, err := c.uc.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			held = append(held, c)
		}
	}
	if len(held) < 10 || len(held) > 20 {
		t.Errorf("%d connections are kept", len(held))
	}
	for range 3 {
		c := dialClient(t, path)
		if l := c.list(); len(l.Listeners) != 1 {
			t.Errorf("listed: %+v", l)
		}
		c = dialClient(t, path)
		c.send(get("a"))
		if err := c.refused(); !errors.Is(err, protocol.ErrLimitReached) {
			t.Errorf("a call that needs a descriptor: %v", err)
		}
	}
	if os.Geteuid() == 0 {
		c := dialAs(t, path, alice)
		if err := c.refused(); !errors.Is(err, protocol.ErrLimitReached) {
			t.Errorf("another user: %v", err)
		}
	}
	silent, err := net.Dial("unix", path) // and one that says nothing does not stop that
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	dialClient(t, path).list()
	for _, c := range idle {
		c.close()
	}
	fdtest.Eventually(t, "all is as before", func() bool {
		c := dialClient(t, path)
		defer c.close()
		c.send(get("a"))
		r, _ := c.reply()
		err := r.Err
		return err == nil
	})
	stop()
}
