package restarttest

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// BenchmarkDip compares blocks of half a second in which the broker is killed with
// blocks in which it is not: connections that a worker answers. Of the ratios of
// neighbours the median.
func BenchmarkDip(b *testing.B) {
	const block = 500 * time.Millisecond
	r := start(b, "--config", specs(b, 1))
	address := r.list().Listeners[0].Address
	r.worker("n0")
	fdtest.Eventually(b, "the worker holds it", func() bool { return len(r.list().Holders) == 1 })
	var answered atomic.Int64
	done := make(chan struct{})
	var running sync.WaitGroup
	for range 2 {
		running.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := exchange(address); err != nil {
					b.Error(err)
					return
				}
				answered.Add(1)
			}
		})
	}
	measure := func(kill bool) float64 {
		began, from := time.Now(), answered.Load()
		if pid, err := r.pid(); err == nil && kill {
			r.kill(pid)
		}
		time.Sleep(block) // the connections that are answered meanwhile are measured
		return float64(answered.Load()-from) / time.Since(began).Seconds()
	}
	measure(false)
	var ratios []float64
	for n := 0; b.Loop(); n++ {
		first, second := measure(n%2 == 0), measure(n%2 != 0)
		if n%2 == 0 {
			first, second = second, first
		}
		ratios = append(ratios, second/first)
	}
	close(done)
	running.Wait()
	slices.Sort(ratios)
	b.ReportMetric(ratios[len(ratios)/2], "killed/quiet")
}
