//go:build linux

package restarttest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// oldRelease is the last commit whose broker writes the journal layout before the present one.
const (
	oldRelease = "e725f4ad8843703dea321e29d6212b55cfbaab9d"
	oldLayout  = "bstate2"
	newLayout  = "bstate3"
)

// oldWorker is a worker with the client library of the old release.
const oldWorker = `package main

import (
	"fmt"
	"os"

	"github.com/fdbroker/fdbroker/broker"
)

func main() {
	ln, err := broker.Dial(os.Args[1])
	for err == nil {
		conn, aerr := ln.Accept()
		if err = aerr; err == nil {
			fmt.Fprintln(conn, os.Getpid())
			_ = conn.Close()
		}
	}
	fmt.Fprintln(os.Stderr, "worker:", err)
	os.Exit(1)
}
`

func git(args ...string) (string, error) {
	out, err := exec.Command("git", args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// buildOld builds the programs of the old release, and its worker, into dir.
func buildOld(t testing.TB, dir string) {
	t.Helper()
	if out, err := git("cat-file", "-e", oldRelease+"^{commit}"); err != nil {
		if shallow, err := git("rev-parse", "--is-shallow-repository"); os.Getenv("CI") == "true" && err == nil && shallow == "false" {
			t.Fatalf("the history is complete, and does not have %s: %s", oldRelease, out)
		}
		t.Skipf("the broker before cannot be built: the history here does not have %s: %s", oldRelease, out)
	}
	source := t.TempDir()
	top, err := git("rev-parse", "--show-toplevel")
	if err != nil {
		t.Fatal(top, err)
	}
	packed := filepath.Join(t.TempDir(), "old.tar")
	if out, err := git("-C", top, "archive", "-o", packed, oldRelease); err != nil {
		t.Fatal(out, err)
	}
	if out, err := exec.Command("tar", "-x", "-C", source, "-f", packed).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	worker := filepath.Join(source, "cmd", "oldworker")
	if err := os.Mkdir(worker, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(worker, "main.go"), []byte(oldWorker), 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", dir+"/", "./cmd/fdbroker", "./cmd/fdclient", "./cmd/oldworker")
	build.Dir = source
	build.Env = append(os.Environ(), "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build of %s: %v\n%s", oldRelease, err, out)
	}
}

// TestUpgradeFromOldRelease: under load the program of the last release is replaced by this one, which reads the
// journal that the old one has written, and writes its own. Nothing is lost, neither then nor when the new broker
// is killed.
func TestUpgradeFromOldRelease(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir, present := fdtest.SocketDir(t), fdtest.SocketDir(t)
	buildOld(t, dir)
	build(t, present)
	path := fdtest.SocketDir(t) + "/s"
	r := startIn(t, dir, func(*exec.Cmd) {}, "--bind", "web=127.0.0.1:0,max=9", "--bind", "queue=127.0.0.1:0", "--bind", "app=unix://"+path)
	if _, err := r.client.Bind(context.Background(), "run=127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{dir + "/oldworker", "web"}, // a grant of a connection
		{dir + "/fdclient", "get", "run", "--", "sleep", "1000"},
		{dir + "/fdclient", "get", "app", "--", "sleep", "1000"},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { fdtest.Stop(cmd.Process, func() { _ = cmd.Wait() }) })
	}
	r.worker("web") // and one with the present client library
	fdtest.Eventually(t, "all hold what they asked for", func() bool { return len(r.holders()) == 4 })
	addresses := make(map[string]string)
	for _, listener := range r.list().Listeners {
		addresses[listener.Name] = listener.Address
	}
	var waiting []net.Conn
	for range 3 {
		waiting = append(waiting, dial(t, "tcp", addresses["queue"]))
	}
	waiting = append(waiting, dial(t, "unix", path))
	queues := r.queues()
	if queues["queue"] != 3 || queues["app"] != 1 {
		t.Fatalf("the queues have %v", queues)
	}
	cookies, holders := r.cookies(), r.holders()
	pid, err := r.pid()
	if err != nil {
		t.Fatal(err)
	}
	keeper := parentOf(pid)
	if layouts := layoutsOf(t, keeper); !maps.Equal(layouts, map[string]int{oldLayout: 1}) {
		t.Fatalf("the keeper of the old broker has journals %v", layouts)
	}
	l := r.load(addresses["web"])
	l.more(20)

	r.replace(r.copyOf(present + "/fdbroker"))
	out, err := exec.Command(present+"/fdclient", "upgrade").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "upgraded to fdbroker ") {
		t.Fatalf("fdclient upgrade: %v, %s", err, out)
	}
	same := func(when string) {
		t.Helper()
		r.keeps(cookies, holders)
		if now := r.queues(); now["queue"] != 3 || now["app"] != 1 {
			t.Errorf("%s the queues have %v, had %v", when, now, queues)
		}
		l.more(20)
		r.keeps(cookies, holders)
		fdtest.Eventually(t, when+" the keeper has one journal, of the present layout", func() bool {
			return maps.Equal(layoutsOf(t, parentOf(r.answers(0))), map[string]int{newLayout: 1})
		})
	}
	r.runsProgram(r.answers(0))
	r.runsProgram(keeper)
	same("after the upgrade")

	pid = r.answers(0)
	r.kill(pid)
	r.answers(pid)
	same("after kill -9 of the new broker")

	pid = r.answers(0)
	r.kill(parentOf(pid))
	r.answers(pid)
	same("after kill -9 of its keeper")
	l.end()

	// Connections that have waited all the time are served at last.
	sockets, err := r.client.Get(context.Background(), broker.GetOptions{}, "queue")
	if err != nil {
		t.Fatal(err)
	}
	f, err := sockets[0].FD.File("queue")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.FileListener(f)
	_ = f.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for range 3 {
		_ = ln.(*net.TCPListener).SetDeadline(time.Now().Add(20 * time.Second))
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(conn, "served")
		_ = conn.Close()
	}
	for _, conn := range waiting[:3] {
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		b := make([]byte, 7)
		if n, err := conn.Read(b); string(b[:n]) != "served\n" {
			t.Errorf("a connection that waited got %q, %v", b[:n], err)
		}
	}
}

func dial(t testing.TB, network, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// queues returns how many connections wait for each listener.
func (r *rig) queues() map[string]int64 {
	r.t.Helper()
	queues := make(map[string]int64)
	for _, l := range r.list().Listeners {
		if l.Queue != nil {
			queues[l.Name] = *l.Queue
		}
	}
	return queues
}

// layoutsOf returns how many journals of each layout a process has open.
func layoutsOf(t testing.TB, pid int) map[string]int {
	t.Helper()
	layouts := make(map[string]int)
	for _, fd := range fdtest.FDsOf(t, pid) {
		number, to, _ := strings.Cut(fd, " -> ")
		if !strings.HasPrefix(to, "/memfd:") {
			continue
		}
		f, err := os.Open(fmt.Sprintf("/proc/%d/fd/%s", pid, number))
		if err != nil {
			continue
		}
		b := make([]byte, len(newLayout))
		if n, _ := f.ReadAt(b, 0); bytes.HasPrefix(b[:n], []byte("bstate")) {
			layouts[string(b[:n])]++
		}
		_ = f.Close()
	}
	return layouts
}
