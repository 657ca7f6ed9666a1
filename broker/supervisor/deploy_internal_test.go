package supervisor

import (
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// TestReplacedFirst: if a deploy was replaced, and one of its workers has exited, no other
// worker is started, whichever happened first.
func TestReplacedFirst(t *testing.T) {
	fdtest.CheckLeaks(t)
	for _, replaced := range []bool{false, true} {
		c, err := Config{Workers: 1, Command: Command{Path: "/nowhere", Argv: []string{"x"}}}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		w := exitedWorker(t, 1)
		w.step = stepReady
		w.slot = &slot{current: w}
		s := &supervisor{timer: time.NewTimer(time.Hour), pool: pool{
			config: c, poller: new(poller),
			open: true, lastID: w.id, workers: map[int64]*worker{w.id: w}, slots: []*slot{w.slot},
		}}
		events := make(chan DeployEvent, 1)
		if replaced {
			events <- DeployEvent{Replaced: true}
		}
		s.handle([]ready{readyOf(w.id, fromProcess)}, events, time.Now())
		s.timer.Stop()
		if tried := s.lastID > w.id; tried == replaced {
			t.Errorf("replaced: %v, and another one was started: %v", replaced, tried)
		}
		if len(s.workers) > 0 {
			t.Errorf("replaced: %v, and the worker is still there", replaced)
		}
	}
}
