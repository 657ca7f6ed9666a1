package runtest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// prestarted returns the prestarted worker: the child of run that is fdclient, except a worker
// that is about to become its command.
func (p *process) prestarted(but int) (pid int) {
	p.t.Helper()
	fdtest.Eventually(p.t, "a worker is prestarted", func() bool {
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.Process.Pid))
		for _, f := range files {
			b, _ := os.ReadFile(f)
			for child := range strings.FieldsSeq(string(b)) {
				words, _ := os.ReadFile("/proc/" + child + "/cmdline")
				if !strings.HasPrefix(string(words), "fdclient\x00get\x00") {
					continue
				}
				if _, err := fmt.Sscan(child, &pid); err == nil && pid != but {
					return true
				}
			}
		}
		return false
	})
	return pid
}

// TestPrestart: once all workers are ready, the next one is prestarted. It replaces a worker
// that is killed, holds nothing before, and exits with run, however that ends. If it is killed
// itself, that does no harm.
func TestPrestart(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newRig(t, "")
	p := r.run("web", "--ready", "0s", "--restart-delay", "1ms", "--", "worker", "a", "fd")
	for range 5 {
		old := r.holders(protocol.StateActive, 1)
		next := p.prestarted(old[0])
		_ = syscall.Kill(old[0], syscall.SIGKILL)
		fdtest.Eventually(t, "the next one serves", func() bool { return slices.Equal(r.running(), []int{next}) })
	}
	old := r.holders(protocol.StateActive, 1)
	_ = syscall.Kill(p.prestarted(old[0]), syscall.SIGKILL)
	_ = syscall.Kill(old[0], syscall.SIGKILL)
	fdtest.Eventually(t, "the next one serves", func() bool {
		now := r.running()
		return len(now) == 1 && now[0] != old[0]
	})
	p.signal(syscall.SIGTERM)
	p.ends(0)

	p = r.run("web", "--ready", "0s", "--", "worker", "b", "fd")
	next := p.prestarted(r.holders(protocol.StateActive, 1)[0])
	_ = p.Process.Kill()
	fdtest.Eventually(t, "it ends with run", func() bool { return isZombie(next) })
	r.holders(protocol.StateActive, 1)
}
