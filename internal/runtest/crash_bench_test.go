package runtest

import (
	"context"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// contender is a way to have the next worker when one has crashed.
type contender struct {
	name    string
	options string // of the listener
	command string
	active  int // so many workers, and
	standby int // so many on standby, when nothing has happened for a while

	rig    *rig
	client broker.Client
	took   []time.Duration
}

// BenchmarkCrash is the time from the end of the connection that has crashed a worker to
// the answer on the next one. Contenders take turns, each with a broker of its own: one
// on standby, two workers, one that is started again, and a loop of the shell's. Of each
// the median, and of the ratios of neighbours to the first.
func BenchmarkCrash(b *testing.B) {
	all := []*contender{
		{name: "standby", options: ",max=1", active: 1, standby: 1, command: "exec fdclient run -n 1 --standby 1 --ready notify -- worker a wait"},
		{name: "two", active: 2, command: "exec fdclient run -n 2 -- worker a dial"},
		{name: "run", active: 1, command: "exec fdclient run web -n 1 --ready notify -- worker a fd"},
		{name: "loop", active: 1, command: "while true; do fdclient get web -- worker a fd; done"},
	}
	for _, c := range all {
		c.rig = newRig(b, c.options)
		c.client.Socket = c.rig.dir + "/c"
		b.Cleanup(func() { _ = c.client.Close() })
		c.rig.startCmd(exec.Command("sh", "-c", c.command))
	}
	for b.Loop() {
		for _, c := range all {
			c.crash(b)
		}
	}
	for _, c := range all {
		b.ReportMetric(float64(median(c.took).Microseconds())/1000, c.name+"-ms")
		if c != all[0] {
			b.ReportMetric(ratio(all[0].took, c.took), all[0].name+"/"+c.name)
		}
	}
}

// recovery is how long a contender is left alone before its worker crashes: the next one
// is there by then, and the one started ahead of it.
const recovery = 250 * time.Millisecond

// crash crashes the worker, and asks the next one.
func (c *contender) crash(b *testing.B) {
	b.Helper()
	fdtest.Eventually(b, c.name+" is as it was", c.isWhole)
	time.Sleep(recovery)
	if text, err := ask(c.rig.address, "crash"); text != "" || err != nil {
		b.Fatalf("%s: a crash is answered: %q, %v", c.name, text, err)
	}
	began := time.Now()
	if _, err := ask(c.rig.address, "x"); err != nil {
		b.Fatalf("%s: %v", c.name, err)
	}
	c.took = append(c.took, time.Since(began))
}

func (c *contender) isWhole() bool {
	list, err := c.client.List(context.Background())
	if err != nil {
		return false
	}
	n := make(map[string]int)
	for _, h := range list.Holders {
		n[h.State]++
	}
	return n[protocol.StateActive] == c.active && n[protocol.StateStandby] == c.standby
}

func median[T ~int64 | ~float64](all []T) T {
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2]
}

func ratio(of, to []time.Duration) float64 {
	ratios := make([]float64, len(of))
	for i := range of {
		ratios[i] = float64(of[i]) / float64(to[i])
	}
	return median(ratios)
}
