package restarttest

import (
	"context"
	"maps"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// TestPassed: a socket that a service manager has passed is restored and closed as one that the broker has bound
// itself: once unbound it is closed, and does not come back.
func TestPassed(t *testing.T) {
	fdtest.CheckLeaks(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0") // another program has the address of the spec all the time
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	const free = "unix://@fdbroker-restarttest-passed"
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
	}, "--bind", "web="+taken.Addr().String()+",max=5", "--bind", "extra="+free) // the address of web is not its socket's
	for _, f := range files {
		_ = f.Close()
	}
	before := r.cookies()
	r.crash()
	if after := r.cookies(); !maps.Equal(before, after) {
		t.Errorf("the listeners were %v, and are %v", before, after)
	}
	if err := r.client.Unbind(context.Background(), "extra"); err != nil { // nothing is left to take over
		t.Fatal(err)
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
	// No spec can have web's address, so web does not come back. The broker does, and the rest of its configuration.
	if now := r.cookies(); len(now) != 1 || now["extra"] == 0 {
		t.Errorf("bound again is %v, want extra only", now)
	}
	if said := r.said(); !strings.Contains(said, `"not bound"`) || !strings.Contains(said, taken.Addr().String()) {
		t.Errorf("the log does not say what is missing:\n%s", said)
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
