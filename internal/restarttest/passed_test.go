package restarttest

import (
	"context"
	"maps"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// TestPassed: a socket that a service manager has passed is restored and closed as one that the broker has bound
// itself: once unbound it is closed, and does not come back.
func TestPassed(t *testing.T) {
	fdtest.CheckLeaks(t)
	addresses := make(map[string]string)
	var files []*os.File
	for _, name := range []string{"web", "api"} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		f, err := ln.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		files, addresses[name] = append(files, f), ln.Addr().String()
		_ = ln.Close()
	}
	r := startAs(t, func(cmd *exec.Cmd) {
		// LISTEN_PID has to be the broker's own pid, which is that of the shell before exec.
		cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
		cmd.Path = "/bin/sh"
		cmd.Env = append(os.Environ(), "LISTEN_FDS=2", "LISTEN_FDNAMES=web:api")
		cmd.ExtraFiles = files
	}, "--bind", "web=127.0.0.1:1,max=5") // its address is not the socket's
	for _, f := range files {
		_ = f.Close()
	}
	before := r.cookies()
	r.crash()
	if after := r.cookies(); !maps.Equal(before, after) {
		t.Errorf("the listeners were %v, and are %v", before, after)
	}
	for name, address := range addresses {
		if err := r.client.Unbind(context.Background(), name); err != nil {
			t.Fatal(err)
		}
		fdtest.Eventually(t, name+" is closed", func() bool {
			conn, err := net.Dial("tcp", address)
			if err == nil {
				_ = conn.Close()
			}
			return err != nil
		})
	}
	r.crash()
	if _, back := r.cookies()["api"]; back {
		t.Error("api is there, and was unbound")
	}
	if _, err := r.client.Bind(context.Background(), "adm="+addresses["api"]); err != nil {
		t.Error(err)
	}
}

// crash kills the broker, and waits for the next one.
func (r *rig) crash() {
	r.t.Helper()
	pid, err := r.pid()
	if err != nil {
		r.t.Fatal(err)
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	r.answers(pid)
}
