package server_test

import (
	"os"
	"os/exec"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// stray starts a process that has fd without a grant, as the child of a worker, and returns its pid.
func stray(t *testing.T, fd *scmrights.FD) int {
	t.Helper()
	n := -1
	if err := fd.Control(func(fd uintptr) { n, _ = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); err != nil || n < 0 {
		t.Fatal("no duplicate:", err)
	}
	f := os.NewFile(uintptr(n), "socket")
	defer f.Close()
	cmd := exec.Command("sleep", "1000")
	cmd.ExtraFiles = []*os.File{f}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

// TestStrays: List names the processes that have a socket without a grant, if nobody holds the listener, and Unbind
// names all that still have it. Only the privileged are told.
func TestStrays(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0,allow=any", "app=unix://"+fdtest.SocketDir(t)+"/s", "idle=127.0.0.1:0")
	first := b.client(t)
	first.send(getMore(protocol.GetParameters{Names: []string{"web", "app"}}))
	_, fds := first.got()
	pids := []int{stray(t, fds[0]), stray(t, fds[0])}
	slices.Sort(pids)
	unixPID := stray(t, fds[1])
	if l := b.listener(t, "web"); l.Holders != 1 || l.Strays != nil {
		t.Errorf("while it is held: %+v", l)
	}
	first.close()
	b.held(t, "web", 0, 0)
	for name, want := range map[string][]protocol.Process{
		"web": {{PID: pids[0], Command: "sleep"}, {PID: pids[1], Command: "sleep"}}, "app": {{PID: unixPID, Command: "sleep"}}, "idle": nil,
	} {
		if l := b.listener(t, name); !slices.Equal(l.Strays, want) {
			t.Errorf("strays of %s: %+v, want %+v", name, l.Strays, want)
		}
	}
	stranger := b.spawn(t, alice, alice)
	stranger.ask(method(protocol.MethodList, nil))
	r, _ := stranger.answer()
	var list protocol.ListReply
	if err := protocol.DecodeParameters(r.Parameters, &list); err != nil || len(list.Listeners) != 1 || list.Listeners[0].Strays != nil {
		t.Errorf("another user is told %s", r.Parameters)
	}
	w := b.spawn(t)
	if err := w.call(get("web")); err != nil {
		t.Fatal(err)
	}
	var reply protocol.UnbindReply
	if err := b.client(t).call(protocol.MethodUnbind, protocol.UnbindParameters{Names: []string{"web", "idle", "app"}}, &reply); err != nil {
		t.Fatal(err)
	}
	for i := range reply.Remaining {
		if r := &reply.Remaining[i]; r.Granted && r.Command != "" {
			r.Command = "worker"
		}
	}
	want := []protocol.Remaining{
		{Name: "web", PID: pids[0], Command: "sleep"}, {Name: "web", PID: pids[1], Command: "sleep"},
		{Name: "web", PID: w.pid(), Command: "worker", Granted: true}, {Name: "app", PID: unixPID, Command: "sleep"},
	}
	slices.SortStableFunc(want[:3], func(a, b protocol.Remaining) int { return a.PID - b.PID })
	if !slices.Equal(reply.Remaining, want) {
		t.Errorf("got %+v, want %+v", reply.Remaining, want)
	}
}
