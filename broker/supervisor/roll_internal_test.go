package supervisor

import (
	"os"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

// exitedWorker returns a worker that has exited and was not reaped. The end of the test
// reaps it.
func exitedWorker(t *testing.T, id int64) *worker {
	t.Helper()
	c := Command{Path: "/bin/sh", Argv: []string{"sh", "-c", "exit 1"}, Env: os.Environ()}
	w, err := startWorker(&Config{Command: c}, nil, id, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if w.pidfd.Control(func(uintptr) {}) == nil { // else the supervisor has reaped it
			_, _ = unix.Wait4(w.pid, nil, 0, nil)
			w.close()
		}
	})
	fdtest.Eventually(t, "it has exited", w.exited)
	return w
}

// TestHandOver: an old worker is stopped once its new one is ready, if the workers that the
// roll has put in place before are still ready.
func TestHandOver(t *testing.T) {
	fdtest.CheckLeaks(t)
	exited := exitedWorker(t, 1)
	exited.step = stepReady
	r, before := &roll{id: 2}, &roll{id: 1}
	for _, c := range []struct {
		name   string
		placed *worker // in the other slot
		next   *worker
		want   bool
	}{
		{"ready", &worker{roll: r.id, step: stepReady}, &worker{step: stepReady}, true},
		{"on standby", &worker{roll: r.id, step: stepStandby}, &worker{step: stepStandby}, true},
		{"of another roll", &worker{roll: before.id, step: stepRunning}, &worker{step: stepReady}, true},
		{"not begun", nil, &worker{step: stepReady}, true},
		{"next is not ready", nil, &worker{step: stepRunning}, false},
		{"next has exited", nil, exited, false},
		{"not ready any more", &worker{roll: r.id, step: stepRunning}, &worker{step: stepReady}, false},
		{"exited", exited, &worker{step: stepReady}, false},
	} {
		exited.roll = r.id
		old := &worker{step: stepReady, ran: time.Now()}
		sl := &slot{current: old, next: c.next}
		old.slot = sl
		r.handOver(&pool{slots: []*slot{{current: c.placed}, sl}}, sl, time.Now())
		if got := old.slot == nil; got != c.want || got != (sl.current == c.next) {
			t.Errorf("%s: it is replaced: %v, want %v", c.name, got, c.want)
		}
	}
}
