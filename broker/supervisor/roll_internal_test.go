//go:build linux

package supervisor

import (
	"os"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

// endedWorker returns a worker that has ended, and that nobody has reaped. The test's
// end does that.
func endedWorker(t *testing.T, id int32) *worker {
	t.Helper()
	c := Command{Path: "/bin/sh", Argv: []string{"sh", "-c", "exit 1"}, Env: os.Environ()}
	w, err := c.start(id, startOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if w.pidfd >= 0 {
			_, _ = unix.Wait4(w.pid, nil, 0, nil)
			w.close()
		}
	})
	fdtest.Eventually(t, "it has ended", w.gone)
	return w
}

// TestHandOver: an old worker is stopped once its new one is ready, if those that the
// roll has put in place before are ready too, and there.
func TestHandOver(t *testing.T) {
	fdtest.CheckLeaks(t)
	ended := endedWorker(t, 1)
	ended.step = stepReady
	r, before := new(roll), new(roll)
	for _, c := range []struct {
		name   string
		placed *worker // in the other slot
		next   *worker
		want   bool
	}{
		{"ready", &worker{pidfd: -1, roll: r, step: stepReady}, &worker{pidfd: -1, step: stepReady}, true},
		{"on standby", &worker{pidfd: -1, roll: r, step: stepStandby}, &worker{pidfd: -1, step: stepStandby}, true},
		{"of another roll", &worker{pidfd: -1, roll: before, step: stepRunning}, &worker{pidfd: -1, step: stepReady}, true},
		{"not begun", nil, &worker{pidfd: -1, step: stepReady}, true},
		{"next is not ready", nil, &worker{pidfd: -1, step: stepRunning}, false},
		{"next has ended", nil, ended, false},
		{"not ready any more", &worker{pidfd: -1, roll: r, step: stepRunning}, &worker{pidfd: -1, step: stepReady}, false},
		{"ended", ended, &worker{pidfd: -1, step: stepReady}, false},
	} {
		ended.roll = r
		old := &worker{pidfd: -1, step: stepReady, ran: time.Now()}
		sl := &slot{current: old, next: c.next}
		old.slot = sl
		s := &supervisor{slots: []*slot{{current: c.placed}, sl}, roll: r}
		s.handOver(r, sl, time.Now())
		if got := old.slot == nil; got != c.want || got != (sl.current == c.next) {
			t.Errorf("%s: it is replaced: %v, want %v", c.name, got, c.want)
		}
	}
}
