//go:build linux

package scmrights_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// listen listens at a new path and accepts nothing by itself.
func listen(t testing.TB) (*net.UnixListener, string) {
	t.Helper()
	path := filepath.Join(fdtest.SocketDir(t), "s")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln, path
}

func dial(t testing.TB, ctx context.Context, path string) *scmrights.Stream {
	t.Helper()
	s, err := scmrights.Dial(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestStream(t *testing.T) {
	fdtest.CheckLeaks(t)
	ln, path := listen(t)
	for _, ctx := range []context.Context{context.Background(), t.Context()} {
		c := dial(t, ctx, path)
		u, err := ln.AcceptUnix()
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		if err := c.Send([]byte("ping"), pipes(t, 1)...); err != nil {
			t.Fatal(err)
		}
		peer := newConn(t, u)
		_, fds, err := peer.Recv(make([]byte, 8), 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := peer.Send([]byte("pong"), fds...); err != nil {
			t.Fatal(err)
		}
		scmrights.CloseAll(fds)
		n, fds, err := c.Recv(make([]byte, 8), 1)
		if err != nil || n != 4 || len(fds) != 1 {
			t.Errorf("got %d bytes, %d descriptors, %v", n, len(fds), err)
		}
		scmrights.CloseAll(fds)
	}
}

// TestStreamSend sends more than fits into the socket's buffer while a time limit of the
// socket runs out, and then without a peer.
func TestStreamSend(t *testing.T) {
	fdtest.CheckLeaks(t)
	ln, path := listen(t)
	s := dial(t, t.Context(), path)
	u, err := ln.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if err := s.Control(func(fd uintptr) {
		tv := unix.NsecToTimeval(int64(time.Millisecond))
		if err := unix.SetsockoptTimeval(int(fd), unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	text := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	sent := make(chan error, 1)
	go func() { sent <- s.Send(text) }()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(u, got); err != nil || !bytes.Equal(got, text) {
		t.Errorf("received something else, or %v", err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	_ = u.Close()
	if err := s.Send([]byte("x")); !errors.Is(err, unix.EPIPE) {
		t.Errorf("nobody listens: %v", err)
	}
	if _, _, err := s.Recv(make([]byte, 1), 0); err != io.EOF {
		t.Errorf("Recv: %v", err)
	}
}

func TestDialFails(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := fdtest.SocketDir(t)
	_, err := scmrights.Dial(t.Context(), filepath.Join(dir, "none"))
	if pe, ok := errors.AsType[*fs.PathError](err); !ok || pe.Path != filepath.Join(dir, "none") || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	ln, path := listen(t)
	ln.SetUnlinkOnClose(false)
	_ = ln.Close()
	if _, err := scmrights.Dial(t.Context(), path); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("nobody listens: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := scmrights.Dial(ctx, path); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// fullQueue listens at a path and fills the queue.
func fullQueue(t *testing.T) (fd int, path string) {
	t.Helper()
	path = filepath.Join(fdtest.SocketDir(t), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	sa := &unix.SockaddrUnix{Name: path}
	if err := errors.Join(unix.Bind(fd, sa), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for {
		c, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(c) })
		switch err := unix.Connect(c, sa); err {
		case nil:
		case unix.EAGAIN:
			return fd, path
		default:
			t.Fatal(err)
		}
	}
}

func TestDialAFullQueue(t *testing.T) {
	fdtest.CheckLeaks(t)
	fd, path := fullQueue(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := scmrights.Dial(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want the context's error", err)
	}
	done := make(chan error, 1)
	go func() {
		s, err := scmrights.Dial(t.Context(), path)
		if err == nil {
			err = s.Close()
		}
		done <- err
	}()
	c, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(c)
	if err := <-done; err != nil {
		t.Errorf("with a free place: %v", err)
	}
}

// inRecv reports whether a thread of this process waits in recvmsg on a socket.
func inRecv(t *testing.T) bool {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/syscall")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range tasks {
		b, err := os.ReadFile(name)
		if err == nil && strings.HasPrefix(string(b), fmt.Sprintf("%d ", unix.SYS_RECVMSG)) {
			return true
		}
	}
	return false
}

func TestInterruptAndCloseWakeRecv(t *testing.T) {
	for name, end := range map[string]func(*scmrights.Stream){
		"Interrupt": (*scmrights.Stream).Interrupt,
		"Close":     func(s *scmrights.Stream) { _ = s.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			_, path := listen(t)
			s := dial(t, t.Context(), path)
			done := make(chan error, 1)
			go func() {
				_, _, err := s.Recv(make([]byte, 1), 1)
				done <- err
			}()
			fdtest.Eventually(t, "Recv blocks", func() bool { return inRecv(t) })
			end(s)
			if err := <-done; err == nil {
				t.Error("Recv returned without an error")
			}
			if _, _, err := s.Recv(make([]byte, 1), 1); err == nil {
				t.Error("a later Recv returned without an error")
			}
			if err := s.Close(); err != nil {
				t.Errorf("Close again: %v", err)
			}
			if err := s.Send([]byte("x")); !errors.Is(err, os.ErrClosed) {
				t.Errorf("Send after Close: %v", err)
			}
		})
	}
}

// A Close while a Recv is about to block wakes it, or makes it fail.
func TestCloseAsRecvBegins(t *testing.T) {
	fdtest.CheckLeaks(t)
	ln, path := listen(t)
	for i := range 3000 {
		s, err := scmrights.Dial(context.Background(), path)
		if err != nil {
			t.Fatal(err)
		}
		peer, err := ln.AcceptUnix()
		if err != nil {
			t.Fatal(err)
		}
		var began atomic.Bool
		done := make(chan error, 1)
		go func() {
			began.Store(true)
			_, _, err := s.Recv(make([]byte, 1), 1)
			done <- err
		}()
		for !began.Load() {
		}
		for range i % 300 { // a different moment each time
			_ = began.Load()
		}
		_ = s.Close()
		select {
		case err := <-done:
			if err == nil {
				t.Fatal("Recv returned without an error")
			}
		case <-time.After(10 * time.Second):
			_ = peer.Close() // ends the Recv
			t.Fatal("Close left a Recv blocked")
		}
		_ = peer.Close()
	}
}

func TestStreamFile(t *testing.T) {
	fdtest.CheckLeaks(t)
	ln, path := listen(t)
	s := dial(t, t.Context(), path)
	f, err := s.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := s.Close(); err != nil {
		t.Errorf("Close of what File took: %v", err)
	}
	u, err := ln.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if err := f.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Errorf("the file is not in the poller: %v", err)
	}
	if _, err := f.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if _, err := s.File(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("File again: %v", err)
	}
}
