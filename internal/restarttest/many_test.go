package restarttest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// specs writes a configuration of n listeners.
func specs(t testing.TB, n int) (path string) {
	t.Helper()
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "n%d=127.0.0.1:0\n", i)
	}
	path = filepath.Join(t.TempDir(), "specs")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestMany: with a thousand listeners and as many grants, all are there again, whichever
// of the two processes is killed.
func TestMany(t *testing.T) {
	const many = 1000
	fdtest.CheckLeaks(t)
	r := start(t, "--config", specs(t, many))
	client := filepath.Dir(r.program) + "/fdclient"
	var processes []*exec.Cmd
	var mu sync.Mutex
	t.Cleanup(func() {
		for _, p := range processes {
			_ = p.Process.Kill()
			_ = p.Wait()
		}
	})
	var starting sync.WaitGroup
	for part := range 4 {
		starting.Go(func() {
			for i := part; i < many; i += 4 {
				p := exec.Command(client, "get", fmt.Sprintf("n%d", i), "--", "sleep", "1000")
				if err := p.Start(); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				processes = append(processes, p)
				mu.Unlock()
			}
		})
	}
	starting.Wait()
	fdtest.Eventually(t, "all hold something", func() bool { return len(r.list().Holders) == many })
	cookies, holders := r.cookies(), r.holders()
	for _, victim := range []func(pid int) int{func(pid int) int { return pid }, parentOf} {
		pid, err := r.pid()
		if err != nil {
			t.Fatal(err)
		}
		r.kill(victim(pid))
		r.answers(pid)
		r.keeps(cookies, holders)
	}
	if n := len(cookies); n != many {
		t.Errorf("%d listeners", n)
	}
}

// BenchmarkStart measures a plain start until the broker answers, and BenchmarkKilled how long a client waits that
// calls when the broker has just been killed. Both report the median.
func BenchmarkStart(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("listeners=%d", n), func(b *testing.B) {
			config := specs(b, n)
			r := start(b)
			var took []time.Duration
			for b.Loop() {
				socket := filepath.Join(fdtest.SocketDir(b), "c")
				began := time.Now()
				cmd := exec.Command(r.program, "--socket", socket, "--store=none", "--config", config, "--log-level", "disabled")
				if err := cmd.Start(); err != nil {
					b.Fatal(err)
				}
				for !asks(socket) {
					time.Sleep(100 * time.Microsecond) // asking all the time would take the processor from the broker
				}
				took = append(took, time.Since(began))
				fdtest.Stop(cmd.Process, func() { _ = cmd.Wait() })
			}
			report(b, took)
		})
	}
}

func BenchmarkKilled(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("listeners=%d", n), func(b *testing.B) {
			r := start(b, "--config", specs(b, n))
			var took []time.Duration
			for b.Loop() {
				pid, err := r.pid()
				if err != nil {
					b.Fatal(err)
				}
				time.Sleep(lives) // otherwise the keeper would take it for a crash at the start, and wait
				r.kill(pid)
				began := time.Now()
				for !asks(r.socket) { // only a call that the dead broker had accepted has to be made again
				}
				took = append(took, time.Since(began))
				r.answers(pid)
			}
			report(b, took)
		})
	}
}

func report(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
}
