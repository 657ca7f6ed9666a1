package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/internal/logging"
)

// TestLogReaderGoes and TestLogReaderStops: the reader of the log can neither end the broker
// nor delay it.
func TestLogReaderGoes(t *testing.T) {
	fdtest.CheckLeaks(t)
	testLog(t, func(r *os.File) { _ = r.Close() })
}

func TestLogReaderStops(t *testing.T) {
	fdtest.CheckLeaks(t)
	testLog(t, func(*os.File) {})
}

// testLog runs a broker that logs to a pipe, and calls spoil with the pipe.
func testLog(t *testing.T, spoil func(r *os.File)) {
	t.Helper()
	path := filepath.Join(fdtest.SocketDir(t), "c")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	const size = 4096 // the least that a pipe holds
	rc, err := w.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := rc.Control(func(fd uintptr) { _, _, _ = syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_SETPIPE_SZ, size) }); err != nil {
		t.Fatal(err)
	}
	cmd := fdtest.Helper(t, "fdbroker", "--socket", path, "--bind", "web=127.0.0.1:0", "--log-level", "debug")
	cmd.Stderr = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	waitReady(t, path)
	spoil(r)
	// Many times the lines that the pipe and the buffer hold.
	d := broker.Dialer{Socket: path}
	for range 2 * logging.Buffer {
		ln, err := d.Dial(context.Background(), "web")
		if err != nil {
			t.Fatal(err)
		}
		_ = ln.Close()
	}
	if _, err := d.Dial(context.Background(), "wbe"); !errors.Is(err, broker.ErrUnknownName) {
		t.Errorf("got %v", err)
	}
	terminate(t, cmd)
}
