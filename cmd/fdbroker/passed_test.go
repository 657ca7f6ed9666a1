package main

import (
	"bytes"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// TestForeign: sockets that were passed to the shell which starts the broker are not used,
// and the log says so, once.
func TestForeign(t *testing.T) {
	fdtest.CheckLeaks(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	socket, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	const warning = "sockets were passed to another process (LISTEN_PID)"
	for _, c := range []struct {
		name  string
		store string
		env   []string
		files []*os.File
		want  int
	}{
		{"under a keeper", storeKeeper, []string{"LISTEN_FDS=1", "LISTEN_PID=1"}, []*os.File{socket}, 1},
		{"without one", storeNone, []string{"LISTEN_FDS=1", "LISTEN_PID=1"}, []*os.File{socket}, 1},
		{"of nobody", storeNone, []string{"LISTEN_FDS=1"}, []*os.File{socket}, 1},
		{"a parent's environment alone", storeKeeper, []string{"LISTEN_FDS=1", "LISTEN_PID=1"}, nil, 0},
		{"no socket", storeNone, []string{"LISTEN_FDS=1", "LISTEN_PID=1"}, []*os.File{null}, 0},
		{"a socket of no meaning", storeKeeper, nil, []*os.File{socket}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := fdtest.SocketDir(t) + "/c"
			cmd := fdtest.Helper(t, "fdbroker", "--socket", path, "--log-format", "json", "--store", c.store)
			cmd.Env = append(cmd.Env, c.env...)
			cmd.ExtraFiles = c.files
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			waitReady(t, path)
			terminate(t, cmd)
			if got := strings.Count(stderr.String(), warning); got != c.want {
				t.Errorf("said %d times, want %d:\n%s", got, c.want, &stderr)
			}
		})
	}
}
