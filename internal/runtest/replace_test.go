package runtest

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// running returns the holders that the broker knows, or nothing where there is none.
func (r *rig) running() []int {
	r.t.Helper()
	return r.pids(protocol.StateActive)
}

// TestRolls: one rolling replacement after the other, and no request fails.
func TestRolls(t *testing.T) {
	for _, w := range ways {
		t.Run(w.how, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			r := newRig(t, "")
			p := r.run(append(w.name, "-n", "2", "--ready", "notify", "--", "worker", "a", w.how)...)
			p.says(`"message":"ready"`)
			l := startLoad(t, r.address)
			for i := range *rounds {
				old := r.holders(protocol.StateActive, 2)
				p.signal(syscall.SIGHUP)
				p.saysTimes("workers replaced", i+1)
				fdtest.Eventually(t, "the broker has seen that the old ones are gone", func() bool {
					return !slices.ContainsFunc(r.running(), func(pid int) bool { return slices.Contains(old, pid) })
				})
			}
			l.waitFor("a", 10)
			l.done(0)
			p.signal(syscall.SIGTERM)
			p.ends(0)
		})
	}
}

// TestReplaceKeepsWords: what a deploy asks for by itself does not end up in the words of
// its workers.
func TestReplaceKeepsWords(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newRig(t, "")
	p := r.run("--replace", "--ready", "notify", "--", "worker", "a", "dial")
	p.says("asked the workers of older deploys")
	words := func() string {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", r.holders(protocol.StateActive, 1)[0]))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	const want = "worker\x00a\x00dial\x00"
	if got := words(); got != want {
		t.Errorf("at first: %q", got)
	}
	p.signal(syscall.SIGHUP)
	p.says("workers replaced")
	if got := words(); got != want {
		t.Errorf("replaced: got %q, want %q", got, want)
	}
	p.signal(syscall.SIGTERM)
	p.ends(0)
}

// TestRollFails: a new worker that never becomes ready leaves the old ones serving,
// and run's service manager is told why.
func TestRollFails(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newRig(t, "")
	m := r.manager()
	t.Setenv("NOTIFY_SOCKET", m.path)
	// The second start finds the marker that the first has left.
	script := `[ -e "$0" ] && words=mute; : >"$0"; exec worker a fd $words`
	p := r.run("web", "--ready", "notify", "--ready-timeout", "300ms", "--", "sh", "-c", script, r.dir+"/marker")
	m.hears("READY=1")
	old := r.holders(protocol.StateActive, 1)
	l := startLoad(t, r.address)
	l.waitFor("a", 10)
	p.signal(syscall.SIGHUP)
	m.hears("RELOADING=1")
	m.hears("STATUS=1 of 1 workers ready; deploy failed: new worker did not say READY=1 in time; old workers keep running")
	r.holders(protocol.StateActive, 1)
	if now := r.running(); !slices.Equal(now, old) {
		t.Errorf("%d serve, want %d", now, old)
	}
	l.waitFor("a", 10)
	l.done(0)
	p.signal(syscall.SIGTERM)
	m.hears("STOPPING=1")
	p.ends(0)
}

// TestDeploys: one version after the other replaces those before, some of them while
// the one before is not ready yet. No request fails; the newest is what is left.
func TestDeploys(t *testing.T) {
	for _, w := range ways {
		t.Run(w.how, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			r := newRig(t, "")
			deploy := func(version string) *process {
				return r.run(append(w.name, "-n", "2", "--replace", "--ready", "notify", "--", "worker", version, w.how)...)
			}
			all := []*process{deploy("v0")}
			all[0].says(`"message":"ready"`)
			l := startLoad(t, r.address)
			for i := range *rounds {
				tick := time.After(200 * time.Millisecond)
				version := fmt.Sprint("v", i+1)
				all = append(all, deploy(version))
				if i%2 == 0 {
					l.waitFor(version, 1)
				}
				<-tick
			}
			newest := all[len(all)-1]
			newest.says("asked the workers of older deploys to leave")
			for _, p := range all[:len(all)-1] {
				p.ends(0)
				p.says("told to leave by a newer deploy, or by 'fdclient drain'")
			}
			if n := len(r.holders(protocol.StateActive, 2)); n != 2 {
				t.Errorf("%d workers", n)
			}
			l.waitFor(fmt.Sprint("v", *rounds), 10)
			l.done(0)
			newest.signal(syscall.SIGTERM)
			newest.ends(0)
		})
	}
}

// TestDeploysAtOnce: two deploys begin in the same instant. The newer one is what is left,
// and all of it, whichever was ready first. No request fails.
func TestDeploysAtOnce(t *testing.T) {
	for _, w := range ways {
		t.Run(w.how, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			r := newRig(t, "")
			deploy := func(version string) *process {
				return r.run(append(w.name, "-n", "2", "--replace", "--ready", "notify", "--", "worker", version, w.how)...)
			}
			before := deploy("v0")
			before.says(`"message":"ready"`)
			l := startLoad(t, r.address)
			for i := range *rounds {
				left, gone := deploy(fmt.Sprintf("v%d.a", i)), deploy(fmt.Sprintf("v%d.b", i))
				select {
				case <-gone.done:
				case <-left.done:
					left, gone = gone, left
				case <-time.After(20 * time.Second):
					t.Fatal("neither is replaced")
				}
				for _, p := range []*process{before, gone} {
					p.ends(0)
					p.says("told to leave by a newer deploy, or by 'fdclient drain'")
				}
				left.says("asked the workers of older deploys to leave")
				newest := r.generation(2)
				if own := left.generations(); !slices.Equal(own, []int64{newest, newest}) {
					t.Errorf("workers of generation %d are left, of a deploy with %v", newest, own)
				}
				for _, g := range gone.generations() {
					if g >= newest {
						t.Errorf("generation %d has replaced %d", newest, g)
					}
				}
				l.waitFor(left.version(), 5)
				before = left
			}
			l.done(0)
			before.signal(syscall.SIGTERM)
			before.ends(0)
		})
	}
}

// generation waits until so many hold the listener, and returns the one that all of them
// belong to.
func (r *rig) generation(n int) int64 {
	r.t.Helper()
	r.holders(protocol.StateActive, n)
	all := r.list().Holders
	for _, h := range all {
		if h.Generation != all[0].Generation {
			r.t.Fatalf("workers of generations %d and %d", all[0].Generation, h.Generation)
		}
	}
	return all[0].Generation
}

// generations returns what the workers of a deploy that have come so far say.
func (p *process) generations() (all []int64) {
	p.t.Helper()
	for line := range strings.Lines(p.output()) {
		var version string
		var pid int
		var g int64
		if n, _ := fmt.Sscanf(line, "starting %s %d of %d", &version, &pid, &g); n == 3 {
			all = append(all, g)
		}
	}
	return all
}

// version returns which one the workers of a deploy are.
func (p *process) version() string { return p.Args[len(p.Args)-2] }

// TestRunKilled: workers whose run was killed go on, and the next one takes over.
func TestRunKilled(t *testing.T) {
	for _, w := range ways {
		t.Run(w.how, func(t *testing.T) {
			r := newRig(t, "")
			p := r.run(append(w.name, "-n", "2", "--ready", "notify", "--", "worker", "a", w.how)...)
			p.says(`"message":"ready"`)
			l := startLoad(t, r.address)
			old := r.holders(protocol.StateActive, 2)
			_ = p.Process.Kill()
			p.ends(-1)
			l.waitFor("a", 20)
			next := r.run(append(w.name, "-n", "2", "--replace", "--ready", "notify", "--", "worker", "b", w.how)...)
			next.says("asked the workers of older deploys to leave")
			for _, pid := range old {
				fdtest.Eventually(t, "it is gone", func() bool { return syscall.Kill(pid, 0) != nil || isZombie(pid) })
			}
			r.holders(protocol.StateActive, 2)
			l.waitFor("b", 20)
			l.done(0)
			next.signal(syscall.SIGTERM)
			next.ends(0)
		})
	}
}

// TestTwoRuns: without --replace, two runs serve one name side by side.
func TestTwoRuns(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newRig(t, "")
	a := r.run("web", "--ready", "notify", "--", "worker", "a", "fd")
	b := r.run("web", "--ready", "notify", "--", "worker", "b", "fd")
	a.says(`"message":"ready"`)
	b.says(`"message":"ready"`)
	l := startLoad(t, r.address)
	l.waitFor("a", 1)
	l.waitFor("b", 1)
	a.signal(syscall.SIGTERM)
	a.ends(0)
	l.waitFor("b", 10)
	l.done(0)
	b.signal(syscall.SIGTERM)
	b.ends(0)
}
