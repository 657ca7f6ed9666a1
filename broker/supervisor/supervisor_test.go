package supervisor_test

import (
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker/supervisor"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// TestRestart: a worker is started again however it has exited; a stop stops all.
func TestRestart(t *testing.T) {
	fdtest.CheckLeaks(t)
	h := newHub(t, "")
	r := h.keep(supervisor.Config{Workers: 3, RestartDelay: time.Millisecond})
	h.wait(3)
	for range 10 {
		born := h.births()
		old := h.pids()[:2]
		_ = syscall.Kill(old[0], syscall.SIGKILL)
		h.each(func(pid int, c net.Conn) {
			if pid == old[1] {
				_, _ = c.Write([]byte("x"))
			}
		})
		fdtest.Eventually(t, "two more", func() bool { return h.births() == born+2 })
		h.replaced(3, old)
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	h.wait(0)
	if r.reported("STOPPING=1") == 0 {
		t.Error("the manager got no report of the stop")
	}
}

// TestRestartDelay: a worker that exits too soon is started again at once the first time, and
// not the second time.
func TestRestartDelay(t *testing.T) {
	fdtest.CheckLeaks(t)
	h := newHub(t, "short")
	r := h.keep(supervisor.Config{Workers: 1, RestartDelay: time.Hour, RestartMax: time.Hour})
	fdtest.Eventually(t, "it is tried again", func() bool { return h.births() == 2 })
	h.wait(0)
	for range 10 {
		r.signal(unix.SIGWINCH) // means nothing, and is taken only after earlier events were handled
	}
	if n := h.births(); n != 2 {
		t.Errorf("it was started %d times", n)
	}
}

// TestGoodRun: a worker that has run for a while is started again at once, however often.
func TestGoodRun(t *testing.T) {
	fdtest.CheckLeaks(t)
	h := newHub(t, "")
	h.keep(supervisor.Config{Workers: 1, RestartDelay: time.Millisecond, RestartMax: time.Hour})
	for i := range 20 { // the last delay would take minutes
		pid := h.another(i + 1)
		h.aged(time.Millisecond)
		h.tell(pid)
	}
}

// TestCannotExecute: a command that cannot be executed is an error at once.
func TestCannotExecute(t *testing.T) {
	fdtest.CheckLeaks(t)
	script := t.TempDir() + "/script"
	if err := os.WriteFile(script, []byte("#!/nowhere\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for path, status := range map[string]int{"/nowhere": 127, "/etc/passwd": 126, script: 127} {
		r := run(t, supervisor.Config{Workers: 2, Command: supervisor.Command{Path: path, Argv: []string{"x"}}})
		err := r.wait()
		if bad, ok := errors.AsType[*supervisor.StartError](err); !ok || bad.Status != status || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v", path, err)
		}
	}
}

// TestReadyNotify: a worker is ready when it says so, on a socket of its own.
func TestReadyNotify(t *testing.T) {
	fdtest.CheckLeaks(t)
	h := newHub(t, "mute")
	r := h.keep(supervisor.Config{Workers: 2, NotifyReady: true, RestartDelay: time.Millisecond})
	h.wait(2)
	if h.said != " true" { // no generation, but a socket
		t.Errorf("a worker has %q", h.said)
	}
	if r.reported("READY=1") > 0 {
		t.Fatal("ready, and no worker has said so")
	}
	h.mode("notify")
	h.each(func(_ int, c net.Conn) { _, _ = c.Write([]byte("x")) })
	r.waitFor("READY=1")
	r.waitFor("2 of 2 workers ready")
}

// TestNeverReady: a worker that does not become ready is stopped, and another one started.
func TestNeverReady(t *testing.T) {
	fdtest.CheckLeaks(t)
	h := newHub(t, "mute")
	r := h.keep(supervisor.Config{Workers: 1, NotifyReady: true, ReadyTimeout: fdtest.Long(100 * time.Millisecond), RestartDelay: time.Millisecond, RestartMax: 2 * time.Millisecond})
	fdtest.Eventually(t, "it is tried again", func() bool { return h.births() >= 3 })
	if r.reported("READY=1") > 0 {
		t.Error("ready, and no worker has said so")
	}
	h.mode("notify")
	r.waitFor("READY=1")
}

// TestNeverReadyNorGone: as long as a worker is neither ready nor stops, no other is started
// in its slot. A roll does not wait for that.
func TestNeverReadyNorGone(t *testing.T) {
	fdtest.CheckLeaks(t)
	h := newHub(t, "mute deaf")
	d := newCensus()
	c := supervisor.Config{Workers: 1, NotifyReady: true, ReadyTimeout: 200 * time.Millisecond, Grace: 200 * time.Millisecond, RestartDelay: time.Millisecond, RestartMax: 2 * time.Millisecond, Deploy: d}
	r := h.keep(c)
	fdtest.Eventually(t, "it is tried again", func() bool { return h.births() >= 4 })
	if n := d.most(); n != 1 {
		t.Errorf("%d workers at once", n)
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}

	h.wait(0)

	late := make(chan struct{}, 1)
	c.Logger = zerolog.New(nil).Hook(zerolog.HookFunc(func(_ *zerolog.Event, _ zerolog.Level, message string) {
		if strings.HasPrefix(message, "worker stopped: it did not say READY=1") {
			select {
			case late <- struct{}{}:
			default:
			}
		}
	}))
	c.ReadyTimeout, c.Grace = 500*time.Millisecond, time.Hour
	r = h.keep(c)
	first := h.another(h.births() + 1)
	<-late
	h.mode("notify")
	r.signal(unix.SIGHUP)
	r.waitFor("1 of 1 workers ready")
	_ = syscall.Kill(first, syscall.SIGKILL)
	h.wait(1)
}

// TestDeaf: a worker that does not stop is killed, after the grace or by a second signal.
func TestDeaf(t *testing.T) {
	fdtest.CheckLeaks(t)
	h := newHub(t, "deaf")
	r := h.keep(supervisor.Config{Workers: 2, Grace: 20 * time.Millisecond})
	h.wait(2)
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	r = h.keep(supervisor.Config{Workers: 2, Grace: time.Hour})
	h.wait(2)
	r.signal(unix.SIGTERM)
	r.waitFor("STOPPING=1")
	r.signal(unix.SIGINT)
	if err := r.wait(); err != nil {
		t.Error(err)
	}
	h.wait(0)
}

// TestMoreAndLess: SIGTTIN and SIGTTOU change the number of workers; one stays.
func TestMoreAndLess(t *testing.T) {
	fdtest.CheckLeaks(t)
	h := newHub(t, "")
	r := h.keep(supervisor.Config{Workers: 1})
	h.wait(1)
	r.signal(unix.SIGTTIN)
	r.signal(unix.SIGTTIN)
	h.wait(3)
	for range 4 {
		r.signal(unix.SIGTTOU)
	}
	h.wait(1)
	r.signal(unix.SIGTTIN)
	h.wait(2)
}

// TestDoesNothing: without events the supervisor does nothing.
func TestDoesNothing(t *testing.T) {
	h := newHub(t, "notify")
	r := h.keep(supervisor.Config{Workers: 2, NotifyReady: true})
	r.waitFor("2 of 2 workers ready")
	before := len(r.state)
	pids := h.pids()
	slices.Sort(pids)
	h.watch()
	r.signal(unix.SIGWINCH) // it means nothing
	r.signal(unix.SIGWINCH) // taken only after the first was handled
	if len(r.state) != before || h.births() != 2 {
		t.Errorf("it reported %q and started %d workers", r.state[before:], h.births())
	}
}
