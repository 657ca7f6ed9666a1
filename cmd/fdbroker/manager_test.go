package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/cli"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

// serviceManager starts brokers as systemd does, and receives their messages.
type serviceManager struct {
	t    *testing.T
	dir  string
	path string // of the control socket
	conn *net.UnixConn
}

func newServiceManager(t *testing.T) *serviceManager {
	t.Helper()
	dir := fdtest.SocketDir(t)
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: dir + "/n"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return &serviceManager{t, dir, dir + "/c", c}
}

// command returns a broker's command that knows the manager.
func (m *serviceManager) command(args ...string) *exec.Cmd {
	cmd := fdtest.Helper(m.t, "fdbroker", append([]string{"--socket", m.path}, args...)...)
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+m.dir+"/n")
	return cmd
}

// next returns the next message that is none of skip.
func (m *serviceManager) next(skip ...string) string {
	m.t.Helper()
	b := make([]byte, 4096)
	for {
		_ = m.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, err := m.conn.Read(b)
		if err != nil {
			m.t.Fatal(err)
		}
		text := string(b[:n])
		skipped := false
		for _, s := range skip {
			skipped = skipped || strings.HasPrefix(text, s)
		}
		if !skipped {
			return text
		}
	}
}

func (m *serviceManager) expect(want string) {
	m.t.Helper()
	if got := m.next(); got != want {
		m.t.Fatalf("told %q, want %q", got, want)
	}
}

func monotonic() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano() / 1000
}

// TestNotify: the messages to a service manager, in order, from start to end.
func TestNotify(t *testing.T) {
	fdtest.CheckLeaks(t)
	m := newServiceManager(t)
	config := filepath.Join(m.dir, "specs")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("web=127.0.0.1:0\nadm=127.0.0.1:0\n")
	cmd := m.command("--config", config, "--log-level", "disabled")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m.expect("STATUS=serving 2 listeners")
	m.expect("READY=1")
	c := broker.Client{Socket: m.path}
	defer c.Close()
	// Ready is when a call is answered, and all is bound.
	if list, err := c.List(context.Background()); err != nil || len(list.Listeners) != 2 {
		t.Errorf("once ready: %+v, %v", list, err)
	}
	reload := func() {
		t.Helper()
		before := monotonic()
		if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		usec, ok := strings.CutPrefix(m.next(), "RELOADING=1\nMONOTONIC_USEC=")
		if n, err := strconv.ParseInt(usec, 10, 64); !ok || err != nil || n < before || n > monotonic() {
			t.Errorf("MONOTONIC_USEC=%s, %v; the signal was sent at %d", usec, err, before)
		}
	}
	write("web=127.0.0.1:0\n")
	reload()
	m.expect("STATUS=serving 1 listener")
	m.expect("READY=1")
	write("web\n")
	reload()
	if got := m.next(); !strings.HasPrefix(got, "READY=1\nSTATUS=serving 1 listener; configuration not loaded: "+config+":1: spec \"web\": ") {
		t.Errorf("told %q", got)
	}
	if _, err := c.Bind(context.Background(), "run=127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	m.expect("STATUS=serving 2 listeners")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	m.expect("STOPPING=1")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestNotReady: a broker that cannot bind is never ready.
func TestNotReady(t *testing.T) {
	fdtest.CheckLeaks(t)
	m := newServiceManager(t)
	cmd := m.command("--bind", "web=127.0.0.1:0", "--bind", "bad=unix:///no/such/dir/s")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); cmd.ProcessState.ExitCode() != cli.Failed || !strings.Contains(stderr.String(), "cannot bind bad=") {
		t.Errorf("got %v, %s", err, &stderr)
	}
	_ = m.conn.SetReadDeadline(time.Now()) // all that was ever sent is here
	if n, err := m.conn.Read(make([]byte, 100)); err == nil {
		t.Errorf("told %d bytes", n)
	}
}

// TestNotifyFails: the broker goes on if the manager cannot be reached.
func TestNotifyFails(t *testing.T) {
	fdtest.CheckLeaks(t)
	for _, address := range []string{"/no/such/socket", "vsock:2:1"} {
		m := newServiceManager(t)
		cmd := m.command("--bind", "web=127.0.0.1:0")
		cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+address)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		waitReady(t, m.path)
		terminate(t, cmd)
		if !strings.Contains(stderr.String(), "service manager") {
			t.Errorf("%s: logged %s", address, &stderr)
		}
	}
}

// TestWatchdog: a broker says that it lives for as long as it answers, and no longer.
func TestWatchdog(t *testing.T) {
	fdtest.CheckLeaks(t)
	m := newServiceManager(t)
	cmd := m.command("--bind", "web=127.0.0.1:0", "--log-level", "disabled", "--max-clients", "1")
	cmd.Env = append(cmd.Env, "WATCHDOG_USEC=200000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m.expect("STATUS=serving 1 listener")
	if got := m.next("WATCHDOG=1"); got != "READY=1" { // which may come before or after the first WATCHDOG=1
		t.Errorf("told %q, want READY=1", got)
	}
	m.expect("WATCHDOG=1")
	m.expect("WATCHDOG=1")
	// One that turns clients away lives.
	c := broker.Client{Socket: m.path}
	defer c.Close()
	fdtest.Eventually(t, "this is the only client", func() bool {
		_, err := c.Info(context.Background())
		return err == nil
	})
	m.expect("WATCHDOG=1")
	m.expect("WATCHDOG=1")
	// One whose control socket is another's does not answer there.
	stuck := fdtest.SocketDir(t) + "/c"
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: stuck})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := alive(context.Background(), stuck, 20*time.Millisecond); err == nil {
		t.Error("nobody answers, and that passes for life")
	}
	terminate(t, cmd)
	if got := m.next("WATCHDOG=1"); got != "STOPPING=1" {
		t.Errorf("told %q", got)
	}
}

// TestPassed: sockets that a service manager opened are served instead of bound.
func TestPassed(t *testing.T) {
	fdtest.CheckLeaks(t)
	m := newServiceManager(t)
	var files []*os.File
	var addresses []string
	for range 2 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		f, err := ln.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files, addresses = append(files, f), append(addresses, ln.Addr().String())
	}
	// LISTEN_PID has to be the broker's own pid: a shell that becomes the broker knows it.
	start := func(names string, args ...string) (*exec.Cmd, *bytes.Buffer) {
		cmd := m.command(args...)
		cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
		cmd.Path = "/bin/sh"
		cmd.Env = append(cmd.Env, "LISTEN_FDS=2", "LISTEN_FDNAMES="+names)
		cmd.ExtraFiles = files
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, &stderr
	}

	cmd, stderr := start("web:foo.socket", "--bind", "web=:80,max=5", "--bind", "new=127.0.0.1:0", "--log-format", "json")
	waitReady(t, m.path)
	c := broker.Client{Socket: m.path}
	defer c.Close()
	list, err := c.List(context.Background())
	if err != nil || len(list.Listeners) != 3 {
		t.Fatalf("got %+v, %v", list, err)
	}
	foo, web := list.Listeners[0], list.Listeners[2]
	if foo.Name != "foo.socket" || foo.Address != addresses[1] || web.Address != addresses[0] || web.Max != 5 || web.Blocking {
		t.Errorf("got %+v and %+v", foo, web)
	}
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", cmd.Process.Pid))
	if err != nil || !bytes.Contains(environ, []byte("LISTEN_FDS=2")) {
		t.Errorf("the broker was started with %q, %v", environ, err)
	}
	terminate(t, cmd)
	if want := fmt.Sprintf(`"name":"web","network":"tcp","address":%q`, addresses[0]); !strings.Contains(stderr.String(), want) {
		t.Errorf("the log is without %s:\n%s", want, stderr)
	}
	if strings.Contains(stderr.String(), "LISTEN_PID") {
		t.Errorf("the sockets are the broker's own, and the log says:\n%s", stderr)
	}
	for _, c := range []struct{ names, args, want string }{
		{"web:web", "", `LISTEN_FDNAMES: descriptors 3 and 4 are both called "web" (with systemd, `},
		{"web:unknown", "", `LISTEN_FDNAMES: descriptor 4: name "unknown" has a meaning to systemd`},
		{"web:a@b.socket", "", `LISTEN_FDNAMES: descriptor 4: name "a@b.socket": "@" is not allowed there`},
		{"web:adm", "--bind=web=udp://:80", "cannot bind web=udp://:80: the socket that was passed is tcp://" + addresses[0] + ", and the spec's network is udp"},
	} {
		cmd, stderr := start(c.names, append(strings.Fields(c.args), "--log-level=disabled")...)
		_ = cmd.Wait()
		if cmd.ProcessState.ExitCode() != cli.Failed || !strings.Contains(stderr.String(), "fdbroker: "+c.want) {
			t.Errorf("%s: exit status %d, %s, want %s", c.names, cmd.ProcessState.ExitCode(), stderr, c.want)
		}
	}
}
