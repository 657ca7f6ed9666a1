package systemdtest

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// testWorkers: workers of "fdclient run" take over from those of systemd, are replaced,
// and come back whatever is killed. None but what a killed one had accepted is lost.
func testWorkers(t *testing.T, b *box) {
	load := startLoad(t)
	load.more(20)
	b.do("systemctl", "start", "workers") // returns once they are ready
	if pids := b.webWorkers(); len(pids) != 2 {
		t.Errorf("ready with workers %v", pids)
	}
	if status := b.workersProperty("StatusText"); !strings.HasPrefix(status, "2 of 2 workers ready") {
		t.Errorf("status: %q", status)
	}
	b.do("systemctl", "stop", "worker@1", "worker@2")
	load.more(20)

	for range 3 {
		was := b.webWorkers()
		b.do("systemctl", "reload", "workers") // returns once they are replaced
		now := b.webWorkers()
		if len(now) != 2 || slices.ContainsFunc(now, func(pid int) bool { return slices.Contains(was, pid) }) {
			t.Errorf("workers %v were replaced by %v", was, now)
		}
		load.more(20)
	}
	testBadWorkers(t, b)
	load.more(20)

	cookie, before := b.cookie(), b.webWorkers()
	b.do("systemctl", "stop", "fdbroker")
	load.more(20)
	b.do("systemctl", "start", "fdbroker") // before systemd 254 the workers give it their socket back
	load.more(20)
	if b.cookie() != cookie {
		t.Error("after a stop and start of the broker it has another socket")
	}
	slices.Sort(before)
	fdtest.Eventually(t, "the broker knows the same workers", func() bool {
		now := b.webWorkers()
		slices.Sort(now)
		return slices.Equal(now, before)
	})
	if load.refused.Load()+load.dropped.Load() > 0 {
		t.Errorf("until then %d answered, %d refused, %d dropped", load.answered.Load(), load.refused.Load(), load.dropped.Load())
	}

	was := b.webWorkers()
	b.kill(was[0])
	fdtest.Eventually(t, "another one is there instead", func() bool {
		now := b.webWorkers()
		return len(now) == 2 && !slices.Contains(now, was[0]) && slices.Contains(now, was[1])
	})
	load.more(20)

	was = b.webWorkers()
	run, err := strconv.Atoi(b.workersProperty("MainPID"))
	if err != nil {
		t.Fatal(err)
	}
	b.kill(run)
	fdtest.Eventually(t, "systemd has started all of it again", func() bool {
		now := b.webWorkers()
		return len(now) == 2 && !slices.ContainsFunc(now, func(pid int) bool { return slices.Contains(was, pid) })
	})
	load.more(20)
	load.stop()
	if load.refused.Load() > 0 || load.dropped.Load() > 3*clients {
		t.Errorf("%d answered, %d refused, %d dropped", load.answered.Load(), load.refused.Load(), load.dropped.Load())
	}

	b.do("systemctl", "stop", "workers")
	if pids := b.webWorkers(); len(pids) > 0 {
		t.Errorf("left after the stop: %v", pids)
	}
}

// testBadWorkers: a reload with a program that does not start fails, and says why. The old workers keep running.
func testBadWorkers(t *testing.T, b *box) {
	const program, good = "/usr/local/bin/http", "/usr/local/bin/http.good"
	was := b.webWorkers()
	b.do("mv", program, good)
	if err := os.WriteFile(b.dir+program, []byte("#!/bin/sh\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := b.run("systemctl", "reload", "workers"); err == nil {
		t.Errorf("a reload of a program that does not start: %s", out)
	}
	if now := b.webWorkers(); !slices.Equal(now, was) {
		t.Errorf("workers %v, were %v", now, was)
	}
	const why = "deploy failed: new worker exited before it was ready (exit status 3); old workers keep running"
	if journal := b.do("journalctl", "--no-pager", "-o", "cat", "-u", "workers"); !strings.Contains(journal, "fdclient: "+why) {
		t.Errorf("the journal does not say why:\n%s", journal)
	}
	if status := b.workersProperty("StatusText"); status != "2 of 2 workers ready; "+why {
		t.Errorf("status: %q", status)
	}
	if state := b.workersProperty("ActiveState"); state != "active" {
		t.Errorf("workers are %s", state)
	}
	b.do("mv", good, program)
	b.do("systemctl", "reload", "workers")
	if now := b.webWorkers(); len(now) != 2 || slices.Equal(now, was) {
		t.Errorf("workers %v were replaced by %v", was, now)
	}
}

// webWorkers returns the pids of the holders that are workers of workers.service.
func (b *box) webWorkers() (pids []int) {
	b.t.Helper()
	for _, h := range b.list().Holders {
		if h.State == protocol.StateActive && h.Command == "/usr/local/bin/http" {
			pids = append(pids, h.PID)
		}
	}
	return pids
}

func (b *box) workersProperty(name string) string {
	b.t.Helper()
	return strings.TrimSpace(b.do("systemctl", "show", "--value", "-p", name, "workers"))
}

// kill kills a process of the box, by its pid there.
func (b *box) kill(pid int) {
	b.t.Helper()
	b.do("sh", "-c", "kill -9 "+strconv.Itoa(pid))
}
