package runtest

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// ways are how a worker gets its socket: as fdclient get, or by itself.
var ways = []struct {
	how  string
	name []string
}{
	{"fd", []string{"web"}},
	{"dial", nil},
}

// TestCrashes: a worker that crashes every 50 ms fails the request that crashes it,
// and no other.
func TestCrashes(t *testing.T) {
	for _, w := range ways {
		t.Run(w.how, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			r := newRig(t, "")
			p := r.run(append(w.name, "--restart-delay", "10ms", "--restart-max", "10ms", "--", "worker", "a", w.how)...)
			l := startLoad(t, r.address)
			l.waitFor("a", 10)
			for range *rounds {
				tick := time.After(50 * time.Millisecond)
				if text, err := ask(r.address, "crash"); text != "" {
					t.Errorf("a crash is answered: %q, %v", text, err)
				}
				<-tick
			}
			l.waitFor("a", 10)
			l.done(0)
			p.saysTimes("worker exited", *rounds)
			p.signal(syscall.SIGTERM)
			p.ends(0)
			r.holders(protocol.StateActive, 0)
		})
	}
}

// TestKills: of two workers one is killed again and again. What fails is what it had
// accepted: one request at most.
func TestKills(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newRig(t, "")
	p := r.run("-n", "2", "--", "worker", "a", "dial")
	r.holders(protocol.StateActive, 2)
	l := startLoad(t, r.address)
	for range *rounds {
		l.waitFor("a", 20)
		pids := r.holders(protocol.StateActive, 2)
		_ = syscall.Kill(pids[0], syscall.SIGKILL)
		fdtest.Eventually(t, "it is gone", func() bool { return syscall.Kill(pids[0], 0) != nil })
	}
	r.holders(protocol.StateActive, 2)
	l.waitFor("a", 20)
	l.done(*rounds)
	p.signal(syscall.SIGTERM)
	p.ends(0)
}

// TestBeforeBroker: run waits for a broker, and for the name.
func TestBeforeBroker(t *testing.T) {
	for _, w := range ways {
		t.Run(w.how, func(t *testing.T) {
			r := &rig{t: t, dir: fdtest.SocketDir(t)}
			p := r.run(append(w.name, "-n", "2", "--ready", "notify", "--", "worker", "a", w.how)...)
			p.says("waiting for the broker")
			r.broker("127.0.0.1:0")
			p.says(`"message":"ready"`)
			l := startLoad(t, r.address)
			l.waitFor("a", 10)
			l.done(0)
			p.signal(syscall.SIGINT)
			p.ends(0)
		})
	}
}

// TestBrokerGone: run goes on without the broker, and workers that end meanwhile come
// back with it.
func TestBrokerGone(t *testing.T) {
	r := &rig{t: t, dir: fdtest.SocketDir(t)}
	b := r.start("fdbroker", "--store=none", "--bind", "web=127.0.0.1:0")
	b.says(`"ready"`)
	r.address = r.list().Listeners[0].Address
	p := r.run("web", "-n", "2", "--restart-delay", "10ms", "--ready", "notify", "--", "worker", "a", "fd")
	p.says(`"message":"ready"`)
	pids := r.holders(protocol.StateActive, 2)
	_ = b.Process.Kill()
	<-b.done
	_ = syscall.Kill(pids[0], syscall.SIGKILL)
	p.says("worker waits")
	if _, err := ask(r.address, "x"); err != nil { // of the other one
		t.Error(err)
	}
	r.start("fdbroker", "--store=none", "--bind", "web="+r.address)
	p.saysTimes("worker ready", 3)
	p.signal(syscall.SIGTERM)
	p.ends(0)
}

// TestBrokerRestarts: a deploy knows of the one that it belongs to, and of those that
// came before, through a restart of the broker.
func TestBrokerRestarts(t *testing.T) {
	r := &rig{t: t, dir: fdtest.SocketDir(t)}
	b := r.start("fdbroker", "--bind", "web=127.0.0.1:0")
	b.says(`"ready"`)
	r.address = r.list().Listeners[0].Address
	v1 := r.run("web", "-n", "2", "--ready", "notify", "--", "worker", "v1", "fd")
	v1.says(`"message":"ready"`)
	l := startLoad(t, r.address)
	l.waitFor("v1", 10)
	_ = syscall.Kill(b.child(), syscall.SIGKILL)
	b.saysTimes(`"message":"ready"`, 2)
	v1.says("the broker answers")
	v2 := r.run("web", "-n", "2", "--replace", "--ready", "notify", "--", "worker", "v2", "fd")
	v1.ends(0)
	if log := b.output(); strings.Contains(log, protocol.MethodAttach) {
		t.Errorf("what was not wanted was offered:\n%s", log)
	}
	l.waitFor("v2", 10)
	l.done(0)
	v2.signal(syscall.SIGTERM)
	v2.ends(0)
}

// TestDeaf: a worker that ignores SIGTERM is killed.
func TestDeaf(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newRig(t, "")
	p := r.run("web", "--grace", "50ms", "--ready", "notify", "--", "worker", "a", "fd", "deaf")
	p.says(`"message":"ready"`)
	l := startLoad(t, r.address)
	l.waitFor("a", 10)
	p.signal(syscall.SIGHUP)
	p.says("worker killed")
	p.says("workers replaced")
	l.waitFor("a", 10)
	l.done(1) // what the killed one had
	p.signal(syscall.SIGTERM)
	p.ends(0)
	r.holders(protocol.StateActive, 0)
}

// TestForks: a child that keeps the socket goes on serving, and holds up nobody.
func TestForks(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newRig(t, "")
	p := r.run("web", "--ready", "notify", "--", "worker", "a", "fd", "fork")
	p.says(`"message":"ready"`)
	l := startLoad(t, r.address)
	for i := range 3 {
		l.waitFor("a", 10)
		p.signal(syscall.SIGHUP)
		p.saysTimes("workers replaced", i+1)
	}
	p.signal(syscall.SIGTERM)
	p.ends(0)
	r.holders(protocol.StateActive, 0)
	l.waitFor("a", 10) // by the children
	l.done(0)
}
