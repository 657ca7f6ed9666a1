package supervisor_test

import (
	"context"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker/supervisor"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

// TestRoll: a roll replaces all workers. There are never fewer than before, and as many more
// as the surge allows.
func TestRoll(t *testing.T) {
	fdtest.CheckLeaks(t)
	for _, surge := range []int{1, 2} {
		h := newHub(t, "notify")
		all := newCensus()
		r := h.keep(supervisor.Config{Workers: 3, Surge: surge, NotifyReady: true, Deploy: all})
		r.waitFor("3 of 3 workers ready")
		for range 5 {
			old := h.pids()
			h.watch()
			all.most()
			r.signal(unix.SIGHUP)
			h.replaced(3, old)
			if least, most := h.least(), all.most(); least < 3 || most != 3+surge {
				t.Errorf("surge %d: between %d and %d workers", surge, least, most)
			}
		}
		if n := r.reported("RELOADING=1"); n == 0 {
			t.Error("the manager got no report of the roll")
		}
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	}
}

// asks is a deploy that sends what the test gives it.
type asks chan supervisor.DeployEvent

func (d asks) Follow(ctx context.Context, each func(supervisor.DeployEvent)) {
	for {
		select {
		case e := <-d:
			each(e)
		case <-ctx.Done():
			return
		}
	}
}
func (asks) Ready()          {}
func (asks) Works(int, bool) {}

// TestRollOfBroker: a broker can ask for a roll.
func TestRollOfBroker(t *testing.T) {
	fdtest.CheckLeaks(t)
	h, d := newHub(t, "notify"), make(asks)
	r := h.keep(supervisor.Config{Workers: 2, NotifyReady: true, Deploy: d})
	d <- supervisor.DeployEvent{Generation: 7}
	r.waitFor("2 of 2 workers ready")
	old := h.pids()
	d <- supervisor.DeployEvent{Roll: true}
	h.replaced(2, old)
	if err := r.stop(); err != nil {
		t.Error(err)
	}
}

// TestRollFails: if the new worker exits, or is not ready in time, the old ones go on, and the
// manager gets a report. The next roll works again.
func TestRollFails(t *testing.T) {
	fdtest.CheckLeaks(t)
	for _, mode := range []string{"bad", "mute"} {
		t.Run(mode, func(t *testing.T) {
			h := newHub(t, "notify")
			r := h.keep(supervisor.Config{Workers: 2, NotifyReady: true, ReadyTimeout: fdtest.Long(3 * time.Second)})
			r.waitFor("2 of 2 workers ready")
			old := h.pids()
			h.mode(mode)
			r.signal(unix.SIGHUP)
			r.waitFor("deploy failed: new worker ")
			h.wait(2)
			for _, pid := range old {
				if err := syscall.Kill(pid, 0); err != nil {
					t.Errorf("worker %d: %v", pid, err)
				}
			}
			h.mode("notify")
			r.signal(unix.SIGHUP)
			h.replaced(2, old)
		})
	}
}

// TestRollFailsLater: if a new worker exits after it was ready, the remaining old ones go on,
// and the worker that was to replace the next one leaves.
func TestRollFailsLater(t *testing.T) {
	fdtest.CheckLeaks(t)
	h := newHub(t, "notify")
	r := h.keep(supervisor.Config{Workers: 3, NotifyReady: true})
	r.waitFor("3 of 3 workers ready")
	old := h.pids()
	h.mode("asked")
	r.signal(unix.SIGHUP)
	first := h.another(4, old...)
	h.tell(first)
	second := h.another(5, append(old, first)...)
	h.wait(4)
	left := slices.DeleteFunc(h.pids(), func(pid int) bool { return pid == first || pid == second })
	h.tell(first)
	r.waitFor("deploy failed: new worker exited (exit status 5); old workers keep running beside 1 of 3 that were replaced")
	h.tell(second)
	third := h.another(6, append(left, second)...) // in the slot of the first
	h.tell(third)
	fdtest.Eventually(t, "the second leaves", func() bool { return !slices.Contains(h.pids(), second) })
	r.signal(unix.SIGTTIN)
	last := h.another(7, append(left, third)...)
	h.tell(last)
	r.waitFor("4 of 4 workers ready; deploy failed")
	if pids := h.pids(); len(left) != 2 || !slices.Contains(pids, left[0]) || !slices.Contains(pids, left[1]) {
		t.Errorf("%v live, want %v among them", pids, left)
	}
	h.mode("notify")
	r.signal(unix.SIGHUP)
	h.replaced(4, append(left, third, last))
}

// TestRollAgain: a SIGHUP during a roll makes another roll follow.
func TestRollAgain(t *testing.T) {
	fdtest.CheckLeaks(t)
	h := newHub(t, "notify")
	r := h.keep(supervisor.Config{Workers: 2, NotifyReady: true})
	r.waitFor("2 of 2 workers ready")
	old := h.pids()
	h.mode("mute") // so the first roll cannot be over
	r.signal(unix.SIGHUP)
	fdtest.Eventually(t, "it has begun", func() bool { return h.births() == 3 })
	r.signal(unix.SIGHUP)
	h.mode("notify")
	h.each(func(pid int, c net.Conn) {
		if pid != old[0] && pid != old[1] {
			_, _ = c.Write([]byte("x"))
		}
	})
	h.replaced(2, old) // by the second roll: the first has failed
}

// TestRollStops: a stop during a roll stops old and new workers.
func TestRollStops(t *testing.T) {
	fdtest.CheckLeaks(t)
	h := newHub(t, "notify")
	r := h.keep(supervisor.Config{Workers: 2, NotifyReady: true})
	r.waitFor("2 of 2 workers ready")
	h.mode("mute")
	r.signal(unix.SIGHUP)
	h.wait(3)
	r.signal(unix.SIGTERM)
	if err := r.wait(); err != nil {
		t.Error(err)
	}
	h.wait(0)
}

// TestRollOverCrashes: old workers that exit during a roll do not stop it.
func TestRollOverCrashes(t *testing.T) {
	fdtest.CheckLeaks(t)
	h := newHub(t, "notify")
	r := h.keep(supervisor.Config{Workers: 3, NotifyReady: true, RestartDelay: time.Millisecond, RestartMax: time.Millisecond})
	r.waitFor("3 of 3 workers ready")
	old := h.pids()
	h.mode("mute")
	r.signal(unix.SIGHUP)
	h.wait(4)
	h.mode("notify")
	for _, pid := range old {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	fdtest.Eventually(t, "the old ones are gone", func() bool { return h.births() >= 6 })
	h.each(func(_ int, c net.Conn) { _, _ = c.Write([]byte("x")) })
	h.replaced(3, old)
}
