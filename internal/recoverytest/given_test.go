package recoverytest

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// A broker that may not take its socket from a worker waits a moment for the worker to
// give it back, and answers meanwhile.
func TestGivenBack(t *testing.T) {
	r := newRig(t, &syscall.Credential{Uid: 1234, Gid: 1234})
	spec := "web=" + freePort(t)
	b := r.broker("--bind", spec)
	was := r.listener("web")
	w := r.start("fdclient", "get", "--blocking", "web", "--", python, r.path("offering.py"), "web", r.path("c"))
	l := startLoad(t, was.Network, was.Address, "")
	l.waitFor(w.pid(), 10)
	holds := func() bool { h := r.holder(w.pid()); return h != nil && h.Connection }
	for range 5 {
		b.kill()
		l.waitFor(w.pid(), 10)
		b = r.broker("--bind", spec)
		if is := r.listener("web"); is.Cookie != was.Cookie || is.Spec != was.Spec {
			t.Errorf("got %+v, want %+v", is, was)
		}
		fdtest.Eventually(t, "the worker is its holder again", holds)
		if text := b.out.String(); !strings.Contains(text, `"waiting for a worker`) || !strings.Contains(text, `handed its socket back`) ||
			!strings.Contains(text, fmt.Sprintf(`"pid":%d`, w.pid())) {
			t.Errorf("the log does not say so:\n%s", text)
		}
	}
	second := r.worker("web")
	l.waitFor(second.pid(), 10)
	l.done()

	// One that nobody offers is missed in the end.
	b.kill()
	second.kill()
	w.kill()
	b = r.broker("--bind", spec)
	silent := r.start("fdclient", "get", "--blocking", "web", "--", python, r.path("offering.py"), "web", "/nowhere")
	fdtest.Eventually(t, "the worker answers", func() bool {
		line, err := ask(was.Network, was.Address, "")
		return err == nil && line == fmt.Sprint(silent.pid())
	})
	b.kill()
	if said := r.fails("--bind", spec); !strings.Contains(said, "cannot bind "+spec+": address already in use by a socket of uid 1234") ||
		!strings.Contains(said, "not recovered") || strings.Contains(said, `"ready"`) {
		t.Error(said)
	}
}

// fdclient run gives back what its workers hold, which know nothing of brokers: here to a
// broker that may not take it from them itself. The workers are its holders again.
func TestRunGivesBack(t *testing.T) {
	user := &syscall.Credential{Uid: 1234, Gid: 1234}
	t.Run("another user's", func(t *testing.T) { runGivesBack(t, user, nil, "") }) // root's processes are out of reach
	t.Run("a filter", func(t *testing.T) { runGivesBack(t, user, user, "docker") })
}

func runGivesBack(t *testing.T, broker, workers *syscall.Credential, filter string) {
	r := newRig(t, broker)
	address := freePort(t)
	start := func() *process {
		r.cred = broker
		defer func() { r.cred = workers }()
		return r.brokerUnder(filter, "--bind", "web="+address+",max=2")
	}
	b := start()
	was := r.listener("web")
	run := r.start("fdclient", "run", "web", "-n", "2", "--ready", "1ms", "--blocking", "--", python, r.path("worker.py"))
	fdtest.Eventually(t, "both workers hold it", func() bool { return r.listener("web").Holders == 2 })
	before := r.list().Holders
	held := func(h protocol.Holder) bool {
		return slices.ContainsFunc(before, func(b protocol.Holder) bool { return b.PID == h.PID && b.Generation == h.Generation })
	}
	l := startLoad(t, was.Network, was.Address, "")
	l.waitFor(before[0].PID, 10)
	for range 3 {
		b.kill()
		b = start()
		if is := r.listener("web"); is.Cookie != was.Cookie || is.Spec != was.Spec {
			t.Errorf("got %+v, want %+v", is, was)
		}
		if text := b.out.String(); !strings.Contains(text, `"waiting for a worker`) || !strings.Contains(text, `"handed back by the process that has started its holders"`) {
			t.Errorf("the log does not say so:\n%s", text)
		}
		if holders := r.list().Holders; len(holders) != 2 || !held(holders[0]) || !held(holders[1]) {
			t.Errorf("the holders are %+v, want %+v", holders, before)
		}
		if out, err := r.command("fdclient", "get", "web", "--", "true").CombinedOutput(); err == nil || !strings.Contains(string(out), "max") {
			t.Errorf("a third process: %v, %s", err, out)
		}
	}
	l.done()
	if workers == broker { // else it may not signal them
		r.run("fdclient", "drain", "web", "--wait=10s")
	} else if err := run.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := run.wait(); err != nil {
		t.Errorf("run: %v\n%s", err, run.out.String())
	}
	if said := run.out.String(); !strings.Contains(said, "socket back") {
		t.Errorf("run does not say so:\n%s", said)
	}
}

// Nobody gets a listener's place with another socket, nor without the right to it.
func TestNotGivenBack(t *testing.T) {
	user := &syscall.Credential{Uid: 1234, Gid: 1234}
	r := newRig(t, user)
	specs := []string{"--bind", "web=" + freePort(t) + ",allow=uid:4321", "--bind", "adm=127.0.0.1:0", "--socket-mode=0666"}
	b := r.broker(specs...)
	was := r.listener("web")
	w := r.start("fdclient", "get", "--blocking", "web", "--", python, r.path("offering.py"), "web", "/nowhere")
	fdtest.Eventually(t, "the worker answers", func() bool {
		_, err := ask(was.Network, was.Address, "")
		return err == nil
	})
	b.kill()
	tries := []struct {
		name, how string
		uid       uint32
		want      string
	}{
		{"web", "ask", 4321, `"network": "tcp"`},
		{"web", "ask", 5678, "io.fdbroker.UnknownName"},
		{"adm", "ask", 5678, "io.fdbroker.UnknownName"},
		{"adm", "ask", 1234, "io.fdbroker.NameInUse"},
		{"wbe", "ask", 1234, "io.fdbroker.UnknownName"},
		{"web", "stranger", 1234, "no broker of this user has opened it"},
		{"web", "marked", 1234, "not at the address of the spec"},
		{"web", "marked", 4321, "no broker of this user has opened it"},
		{"web", "deaf", 4321, "does not listen"},
	}
	var tried []func() string // the broker does not wait for long: all are started before
	for _, c := range tries {
		r.cred = &syscall.Credential{Uid: c.uid, Gid: c.uid}
		tried = append(tried, r.attach(c.name, c.how))
	}
	r.cred = user
	b = r.start("fdbroker", append([]string{"--store=none"}, specs...)...)
	fdtest.Eventually(t, "the broker waits", func() bool { return strings.Contains(b.out.String(), `"waiting for a worker`) })
	for i, c := range tries {
		if said := tried[i](); !strings.Contains(said, c.want) {
			t.Errorf("%s, %s, uid %d: %s", c.name, c.how, c.uid, said)
		}
	}
	if out, err := r.command("fdclient", "get", "web", "--", "true").CombinedOutput(); err == nil || !strings.Contains(string(out), `"web" is not bound yet`) {
		t.Errorf("got %v, %s", err, out)
	}
	waits := r.start("fdclient", "get", "--wait", "web", "--", "true")
	w.kill() // and so the address is free
	fdtest.Eventually(t, "the broker is ready", func() bool { return strings.Contains(b.out.String(), `"ready"`) })
	if err := waits.wait(); err != nil {
		t.Errorf("who waited: %v\n%s", err, waits.out.String())
	}
	if r.listener("web").Cookie == was.Cookie {
		t.Error("the socket that nobody had is back")
	}
}

// attach starts a process that tries to give a socket to the broker, and returns a function that lets it try.
func (r *rig) attach(name, how string) (try func() string) {
	r.t.Helper()
	cmd := r.command(python, r.path("attach.py"), r.path("c"), name, how)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	p := r.startCmd(cmd)
	fdtest.Eventually(r.t, "it is up", func() bool { return strings.Contains(p.out.String(), "up\n") })
	return func() string {
		_ = stdin.Close()
		if err := p.wait(); err != nil {
			r.t.Fatalf("%v\n%s", err, p.out.String())
		}
		return p.out.String()
	}
}
