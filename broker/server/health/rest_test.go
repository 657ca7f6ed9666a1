package health

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// clocked is a monitor whose time passes only in skip.
type clocked struct {
	*Monitor
	*reports
	t      *testing.T
	time   time.Duration
	rounds []time.Duration // when they were
	looks  int
}

func newClocked(t *testing.T) *clocked {
	t.Helper()
	c := &clocked{reports: new(reports), t: t, time: time.Second}
	m, err := newMonitor(c.reports)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	c.Monitor, m.now = m, func() time.Duration { return c.time }
	return c
}

// skip lets so much time pass, with all rounds that the timer asks for. A round takes no
// time here, so that no share of a processor bounds it.
func (c *clocked) skip(d time.Duration) {
	end := c.time + d
	for c.wakeAt <= end {
		c.time = max(c.time, c.wakeAt)
		c.round()
		c.rounds = append(c.rounds, c.time)
		c.looks += len(c.batch)
		c.notBefore = 0
	}
	c.time = end
}

// during returns how many rounds there are while so much time passes.
func (c *clocked) during(d time.Duration) int {
	before := len(c.rounds)
	c.skip(d)
	return len(c.rounds) - before
}

// TestLooksBecomeRare: a held socket is looked at often after a grant began or ended, and
// then more and more rarely; an unheld one is not.
func TestLooksBecomeRare(t *testing.T) {
	fdtest.CheckLeaks(t)
	c := newClocked(t)
	web := open(t, "web=127.0.0.1:0")
	c.Watch(web, false)
	if n := c.during(time.Hour); n != 0 {
		t.Errorf("%d looks at an unheld socket", n)
	}
	for _, change := range []func(*socket.Socket){c.Held, c.Held, c.Freed} {
		change(web)
		for at := 100 * time.Millisecond; at <= freshTime; at += 100 * time.Millisecond {
			if n := c.during(100 * time.Millisecond); n == 0 {
				t.Errorf("no look in the 100 ms before %v", at)
			}
		}
		if n := c.during(25 * time.Second); n > 12 {
			t.Errorf("%d looks from 5 s to 30 s", n)
		}
		for range 10 {
			if n := c.during(10 * time.Second); n > 1 {
				t.Errorf("%d looks in 10 s", n)
			}
		}
		c.skip(30 * time.Minute)
		if n := c.during(time.Hour); n != int(time.Hour/lookMost) {
			t.Errorf("%d looks in an hour", n)
		}
	}
	c.Freed(web)
	if n := c.during(time.Hour); n != 1 {
		t.Errorf("%d looks after the last grant has ended, want 1", n)
	}
	if len(c.all()) > 0 {
		t.Errorf("reports: %q", c.all())
	}
}

// TestManyShareAWakeUp: the number of sockets does not change how often there is a round,
// although their grants began at different times.
func TestManyShareAWakeUp(t *testing.T) {
	fdtest.CheckLeaks(t)
	c := newClocked(t)
	for i := range 300 {
		s := open(t, fmt.Sprintf("web%d=127.0.0.1:0", i))
		c.Watch(s, false)
		c.Held(s)
		c.skip(7 * time.Millisecond)
	}
	c.skip(30 * time.Second)
	before := c.looks
	if n := c.during(20 * time.Second); n > 0 {
		t.Errorf("%d rounds from 30 s to 50 s", n)
	}
	c.skip(10 * time.Minute)
	if n := c.looks - before; n < 600 {
		t.Errorf("%d looks at 300 sockets in 10 minutes", n)
	}
}

// TestBacklogIsBack: a backlog that a starting server has set is undone within 200 ms, and
// later if the server is slow to start.
func TestBacklogIsBack(t *testing.T) {
	fdtest.CheckLeaks(t)
	for slow, bound := range map[time.Duration]time.Duration{
		0: 200 * time.Millisecond, time.Second: 200 * time.Millisecond, 4900 * time.Millisecond: 200 * time.Millisecond, 20 * time.Second: 20 * time.Second,
	} {
		c := newClocked(t)
		web := open(t, "web=127.0.0.1:0")
		c.Watch(web, false)
		c.Held(web)
		c.skip(slow)
		do(t, web, listenFive)
		c.skip(bound)
		if len(c.those("web: repaired 1 backlog 5")) != 1 {
			t.Errorf("a server that takes %v: reports %q", slow, c.all())
		}
		c.Close()
	}
}

// TestFaultsBecomeRare: a fault that may pass is tried again at once, and rarely if it does not pass.
func TestFaultsBecomeRare(t *testing.T) {
	fdtest.CheckLeaks(t)
	c := newClocked(t)
	web := open(t, "web=127.0.0.1:0")
	do(t, web, shutDown)
	thief, err := net.Listen("tcp", web.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer thief.Close()
	c.Watch(web, false)
	c.Held(web)
	c.Freed(web)
	if n := c.during(2 * time.Second); n < 6 {
		t.Errorf("%d attempts in the first 2 s", n)
	}
	c.skip(time.Hour)
	if n := c.during(time.Hour); n == 0 || n > 15 {
		t.Errorf("%d attempts in an hour", n)
	}
	before := c.looks
	for range 100 { // grants do not make it busier than every half second
		c.Held(web)
		c.Freed(web)
		c.skip(10 * time.Millisecond)
	}
	if n := c.looks - before; n == 0 || n > 3 {
		t.Errorf("%d attempts in a second with 100 grants", n)
	}
	c.running.Wait()
	if told := c.those("web: faulty "); len(told) != 1 || !strings.HasPrefix(told[0], "web: faulty 2 ") {
		t.Errorf("it is not reported once: %q", told)
	}
	_ = thief.Close()
	c.Held(web) // so it is tried soon
	c.skip(time.Second)
	if len(c.those("web: repaired 1 shut down")) != 1 {
		t.Errorf("reports: %q", c.all())
	}
}

// TestShare: scheduled looks wait until they have taken no more than their share of a
// processor; a report of the kernel does not wait.
func TestShare(t *testing.T) {
	fdtest.CheckLeaks(t)
	c := newClocked(t)
	web, other := open(t, "web=127.0.0.1:0"), open(t, "other=127.0.0.1:0")
	for _, s := range []*socket.Socket{web, other} {
		c.Watch(s, false)
		c.Held(s)
	}
	c.time += time.Second
	c.round()
	if c.notBefore <= c.time || c.looks > 0 {
		t.Errorf("the next look is at %v, it is %v", c.notBefore, c.time)
	}
	c.notBefore = c.time + time.Minute
	c.time += time.Second
	do(t, web, shutDown)
	do(t, other, listenFive)
	c.Monitor.mu.Lock()
	c.lookSoon(c.targets[web], 0)
	c.Monitor.mu.Unlock()
	c.round()
	if len(c.those("web: repaired 1 shut down")) != 1 || len(c.all()) != 1 {
		t.Errorf("reports: %q", c.all())
	}
}

// restHelper holds args[0] sockets, as if their grants had begun long ago, says "rest", and
// waits until its standard input ends.
func restHelper(args []string) int {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return 2
	}
	m, err := Start(new(reports))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for i := range n {
		spec, err := spec.Parse(fmt.Sprintf("web%d=127.0.0.1:0", i))
		if err != nil {
			return 2
		}
		s, err := socket.Open(spec, socket.OpenConfig{})
		if err != nil {
			fmt.Println(err)
			return 1
		}
		m.Watch(s, false)
		m.Held(s)
	}
	m.mu.Lock()
	for _, t := range m.targets {
		t.changed, t.pause, t.due = -freshTime, lookMost, lookMost
		m.awaitArrival(t)
	}
	m.mu.Unlock()
	fmt.Println("rest")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// TestRest: a process that only holds sockets sleeps. The bound is loose, because the runtime has threads of its own.
func TestRest(t *testing.T) {
	pids := make(map[string]int)
	for _, n := range []string{"1", "1000"} {
		pids[n] = startRest(t, n)
	}
	<-time.After(time.Second) // for the runtime to come to rest
	before := make(map[string]int)
	for n, pid := range pids {
		before[n] = switches(t, pid)
	}
	<-time.After(3 * time.Second)
	for n, pid := range pids {
		more := switches(t, pid) - before[n]
		t.Logf("%s sockets: %d context switches in 3 s", n, more)
		if more > 20 {
			t.Errorf("%s sockets: %d context switches in 3 s", n, more)
		}
	}
}

// startRest starts restHelper, which the test's end ends.
func startRest(t *testing.T, sockets string) (pid int) {
	t.Helper()
	cmd := fdtest.Helper(t, "rest", sockets)
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "rest\n" {
		t.Fatalf("the helper says %q, %v", line, err)
	}
	return cmd.Process.Pid
}

// switches counts the context switches of all threads of a process.
func switches(t *testing.T, pid int) (sum int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("no threads: %v", err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(text)) {
			if word, number, ok := strings.Cut(line, ":"); ok && strings.HasSuffix(word, "ctxt_switches") {
				n, _ := strconv.Atoi(strings.TrimSpace(number))
				sum += n
			}
		}
	}
	return sum
}
