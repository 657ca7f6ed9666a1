//go:build linux

package gracefultest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// deploys is how many deploys there are of each way.
const deploys = 20

// TestDeploy deploys a server of HTTP/1.1, HTTP/2, WebSockets and gRPC, under load, in both ways: run rolls, or a new run
// replaces the old one. Nothing fails except streams that never end, and the workers count those.
func TestDeploy(t *testing.T) {
	fdtest.CheckLeaks(t)
	web, rpc, secure := freeAddress(t, "tcp"), freeAddress(t, "tcp"), freeAddress(t, "tcp")
	startBroker(t, "web="+web, "rpc="+rpc, "tls="+secure)
	deploy := func() *process {
		p := startRun(t)
		p.waitSaid(`"message":"ready"`, 1)
		return p
	}
	begun := time.Now()
	run := deploy()
	load := startLoad(t, web, rpc, secure)
	load.more(t, 5)
	for i := range deploys {
		run.signal(syscall.SIGHUP)
		run.waitSaid("workers replaced", i+1)
		load.more(t, 5)
	}
	t.Logf("%d rolls by %v", deploys, time.Since(begun))
	runs := []*process{run}
	var streams endless
	for i := range deploys {
		if i%5 == 0 {
			streams.stream(t, rpc)
		}
		runs = append(runs, deploy())
		load.more(t, 5)
	}
	t.Logf("%d replacements by %v", deploys, time.Since(begun))
	load.more(t, 50)
	load.check(t)
	runs[len(runs)-1].signal(syscall.SIGTERM)
	cut := 0
	for _, p := range runs {
		if err := p.wait(); err != nil {
			t.Errorf("a run ended with %v; it said:\n%s", err, p.said())
		}
		for _, m := range regexp.MustCompile(`cut=(\d+)\.`).FindAllStringSubmatch(p.said(), -1) {
			n, _ := strconv.Atoi(m[1])
			cut += n
		}
	}
	streams.over.Wait()
	if want := (deploys + 4) / 5; cut != want || streams.cut != want {
		t.Errorf("the workers say that they have cut %d connections, and %d streams were cut, want %d", cut, streams.cut, want)
	}
	t.Logf("all has ended after %v", time.Since(begun))
}

// startRun starts a run of two workers, which replaces an older one.
func startRun(t *testing.T) *process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(programs, "fdclient"), "run", "-n", "2", "--ready", "notify", "--replace", "--grace", "15s", "--", exe)
	cmd.Env = append(os.Environ(), fdtest.HelperEnv+"=worker", "GORACE=atexit_sleep_ms=0")
	return startCommand(t, cmd)
}
