package realservers

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	dir, err := os.MkdirTemp("", "realservers")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for _, args := range [][]string{
		{"-o", dir, "github.com/fdbroker/fdbroker/cmd/fdbroker", "github.com/fdbroker/fdbroker/cmd/fdclient"},
		{"-o", dir + "/server", "./testdata/go"},
	} {
		build := exec.CommandContext(ctx, "go", append([]string{"build"}, args...)...)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
			return 1
		}
	}
	programs, testContext = dir, ctx
	return m.Run()
}

// TestServers runs every row of the table in docs/servers.md.
func TestServers(t *testing.T) {
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			path := findPrograms(t, r)
			t.Run("blocking", func(t *testing.T) { testBlocking(t, r, path) })
			t.Run("effects", func(t *testing.T) { testEffects(t, r, path) })
			t.Run("restarts", func(t *testing.T) { testRestarts(t, r, path) })
		})
	}
}

// testBlocking: what the server does to O_NONBLOCK where it is clear.
func testBlocking(t *testing.T, r row, path string) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, r.listener, ",blocking")
	pl := newPlace(t, r, path, b.address)
	s := pl.start(b)
	askOnce(s, b)
	if l := b.list(); l.Blocking != (r.nonblock == leaves) {
		t.Errorf("on a blocking listener: blocking is %v, want that it %s", l.Blocking, r.nonblock)
	}
	s.kill() // some cannot stop in good order now
	fdtest.Eventually(t, "the listener is blocking again", func() bool {
		l := b.list()
		return l.Holders == 0 && l.Blocking && !l.Flipped
	})
	b.stop()
}

// testEffects: the server serves on the socket that the broker has bound, and
// does no more to it than the table says.
func testEffects(t *testing.T, r row, path string) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, r.listener, "")
	pl := newPlace(t, r, path, b.address)
	before := b.list()
	s := pl.start(b)
	askOnce(s, b)

	during := b.list()
	if n := listeners(t, b.address); n != 1 {
		t.Errorf("%d sockets listen on %s, want the broker's alone", n, b.address)
	}
	limit := *before.Limit
	fdtest.Eventually(t, "the queue limit is the broker's own", func() bool { return *b.list().Limit == limit })
	checkHealed(t, r, b, limit)
	if during.Blocking != strings.Contains(r.line, "--blocking") {
		t.Errorf("blocking is %v", during.Blocking)
	}
	if during.Holders != 1 || during.Cookie != before.Cookie {
		t.Errorf("%d holders of socket %d, want one of %d", during.Holders, during.Cookie, before.Cookie)
	}

	s.stop()
	fdtest.Eventually(t, "nobody holds the listener", func() bool { return b.list().Holders == 0 })
	after := b.list()
	if *after.Limit != limit {
		t.Errorf("after the stop the queue limit is %d, want %d", *after.Limit, limit)
	}
	checkHealed(t, r, b, limit) // a shutdown, or a path removed, would be one more
	if after.Blocking || after.Flipped || after.Cookie != before.Cookie {
		t.Errorf("after the stop: %+v", after)
	}
	b.stop()
}

// checkHealed checks that all that the broker has undone is the queue limit that the
// server sets, if any.
func checkHealed(t *testing.T, r row, b *testBroker, limit int64) {
	t.Helper()
	all := strings.Count(b.said(), "repaired the socket") + strings.Count(b.said(), "restored the queue limit")
	want := 0
	if r.backlog != 0 {
		want = strings.Count(b.said(), fmt.Sprintf("backlog %d instead of %d", r.backlog, limit))
		if want == 0 {
			t.Errorf("no queue limit of %d was undone", r.backlog)
		}
	}
	if all != want || (b.list().Healed > 0) != (want > 0) {
		t.Errorf("%d incidents, want %d: %s", all, want, b.said())
	}
}

// How often a server is replaced under load, each way. More find what is rare:
// go test -run TestServers/uvicorn/restarts -restarts 50
var restarts = flag.Int("restarts", 3, "replace each server `N` times, each way")

// testRestarts: a new server is started and then the old one stopped, and the
// other way round, while clients connect. None is refused.
func testRestarts(t *testing.T, r row, path string) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, r.listener, "")
	pl := newPlace(t, r, path, b.address)
	s := pl.start(b)
	askOnce(s, b)
	for _, way := range []struct {
		name    string
		restart func(l *load)
	}{
		{"new one up, then drain the old", func(l *load) {
			old := s
			s = pl.start(b)
			l.waitFor(s, 1)
			b.drain(s)
			old.waitGone()
		}},
		{"stop, then start", func(*load) {
			s.stop()
			s = pl.start(b)
		}},
	} {
		l := startLoad(t, func() (int, outcome, error) { return r.ask(b.address, pl.dir) })
		for range *restarts {
			l.waitFor(s, 10*fdtest.ClientCount)
			way.restart(l)
		}
		l.waitFor(s, 10*fdtest.ClientCount)
		l.stop()
		report(t, way.name, r, l)
	}
	if n := listeners(t, b.address); n != 1 {
		t.Errorf("%d sockets listen on %s, want the broker's alone", n, b.address)
	}
	s.stop()
	b.stop()
}

// report fails the test for each lost connection that the row does not allow.
func report(t *testing.T, way string, r row, l *load) {
	t.Helper()
	var counts []string
	for kind, n := range l.count {
		if n > 0 {
			counts = append(counts, fmt.Sprintf("%d %v", n, outcome(kind)))
		}
	}
	text := fmt.Sprintf("%s: %s", way, strings.Join(counts, ", "))
	t.Log(text)
	allowed := 0
	if r.mayDrop { // no more than the clients there are, each time
		allowed = *restarts * fdtest.ClientCount
	}
	if l.count[refused]+l.count[timedOut]+l.count[wrong] > 0 || l.count[dropped] > allowed {
		t.Errorf("%s\n%s", text, strings.Join(l.errors, "\n"))
	}
}

// askOnce waits for the first answer of the server.
func askOnce(s *server, b *testBroker) {
	s.t.Helper()
	type result struct {
		kind outcome
		err  error
	}
	got := make(chan result, 1)
	go func() {
		_, kind, err := s.row.ask(b.address, s.cmd.Dir)
		got <- result{kind, err}
	}()
	select {
	case <-s.done:
		<-got // fdbroker still queues: it ends with its deadline
		s.check()
	case r := <-got:
		if r.kind != answered {
			s.t.Fatalf("the first request: %v: %v\n%s", r.kind, r.err, s.said())
		}
	}
}

// listeners counts the sockets that listen on the port of a TCP address.
func listeners(t *testing.T, address string) int {
	t.Helper()
	_, portText, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		t.Fatal(err)
	}
	suffix := fmt.Sprintf(":%04X", port)
	n := 0
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(file)
		if err != nil {
			continue // a kernel without IPv6
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() { // sl local_address rem_address st ...
			const listen = "0A"
			fields := strings.Fields(lines.Text())
			if len(fields) > 3 && strings.HasSuffix(fields[1], suffix) && fields[3] == listen {
				n++
			}
		}
		_ = f.Close()
	}
	return n
}
