package runtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// isZombie reports whether a process has ended, and nobody has reaped it.
func isZombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(b), ") Z ")
}

// standbys are how a worker can stand by: as fdclient get, and by itself.
var standbys = []struct {
	how  string
	name []string
}{
	{"fd", []string{"web"}},
	{"wait", nil},
}

// TestStandby: the one on standby takes over from one that is killed, and there is
// another one on standby soon.
func TestStandby(t *testing.T) {
	for _, w := range standbys {
		t.Run(w.how, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			r := newRig(t, ",max=1")
			p := r.run(append(w.name, "-n", "1", "--standby", "1", "--ready", "notify", "--", "worker", "a", w.how)...)
			l := startLoad(t, r.address)
			for range *rounds {
				old, spare := r.holders(protocol.StateActive, 1), r.holders(protocol.StateStandby, 1)
				l.waitFor("a", 5)
				_ = syscall.Kill(old[0], syscall.SIGKILL)
				fdtest.Eventually(t, "the spare serves", func() bool {
					now := r.running()
					return len(now) == 1 && now[0] == spare[0]
				})
			}
			l.waitFor("a", 5)
			l.done(*rounds)
			fdtest.Eventually(t, "run has no connection beside that of its deploy", func() bool { return p.streams() == 1 })
			p.signal(syscall.SIGTERM)
			p.ends(0)
		})
	}
}

// streams returns how many Unix stream sockets p has open.
func (p *process) streams() (n int) {
	p.t.Helper()
	sockets, err := os.ReadFile("/proc/net/unix") // "Num RefCount Protocol Flags Type St Inode Path"
	if err != nil {
		p.t.Fatal(err)
	}
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.Process.Pid))
	if err != nil || len(links) == 0 {
		p.t.Fatalf("no descriptors of %d: %v", p.Process.Pid, err)
	}
	for _, link := range links {
		to, _ := os.Readlink(link) // it may be closed meanwhile
		inode := strings.TrimSuffix(strings.TrimPrefix(to, "socket:["), "]")
		for line := range strings.Lines(string(sockets)) {
			if f := strings.Fields(line); f[4] == "0001" && f[6] == inode {
				n++
			}
		}
	}
	return n
}

// TestStandbyRolls: with max=, the new one is ready as soon as it only lacks the place
// of the old one. No request fails.
func TestStandbyRolls(t *testing.T) {
	for _, w := range standbys {
		for _, spares := range []int{0, 1} {
			t.Run(fmt.Sprint(w.how, spares), func(t *testing.T) {
				fdtest.CheckLeaks(t)
				r := newRig(t, ",max=2")
				p := r.run(append(w.name, "-n", "2", "--standby", fmt.Sprint(spares), "--ready", "notify", "--", "worker", "a", w.how)...)
				p.says(`"message":"ready"`)
				l := startLoad(t, r.address)
				for i := range 3 {
					old := append(r.holders(protocol.StateActive, 2), r.holders(protocol.StateStandby, spares)...)
					p.signal(syscall.SIGHUP)
					p.saysTimes("workers replaced", i+1)
					for _, pid := range old {
						fdtest.Eventually(t, "the old one is gone", func() bool { return syscall.Kill(pid, 0) != nil })
					}
				}
				l.waitFor("a", 10)
				l.done(0)
				p.signal(syscall.SIGTERM)
				p.ends(0)
			})
		}
	}
}

// TestStandbyDeploys: a deploy over one that holds all places.
func TestStandbyDeploys(t *testing.T) {
	for _, w := range standbys {
		t.Run(w.how, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			r := newRig(t, ",max=1")
			deploy := func(version string) *process {
				words := append(w.name, "--standby", "1", "--replace", "--ready", "notify", "--", "worker", version, w.how)
				return r.run(words...)
			}
			p := deploy("v0")
			p.says(`"message":"ready"`)
			l := startLoad(t, r.address)
			for i := range 3 {
				l.waitFor(fmt.Sprint("v", i), 5)
				next := deploy(fmt.Sprint("v", i+1))
				p.ends(0)
				p = next
			}
			l.waitFor("v3", 10)
			l.done(0)
			p.signal(syscall.SIGTERM)
			p.ends(0)
		})
	}
}

// TestStandbyWithoutMax: it would wait for what is never missing.
func TestStandbyWithoutMax(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newRig(t, "")
	p := r.run("web", "--standby", "1", "--", "worker", "a", "fd")
	p.ends(125)
	p.says(`bind it with max=N, as in --bind web=ADDRESS,max=1`)
}
