package runtest

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// roll runs 'fdclient roll', which has to end with that status, and returns what it has printed.
func (r *rig) roll(status int, args ...string) string {
	r.t.Helper()
	p := r.start("fdclient", append([]string{"roll"}, args...)...)
	p.ends(status)
	return p.output()
}

func (p *process) pid() string { return strconv.Itoa(p.Process.Pid) }

// once is a command whose first start makes a marker, and whose later ones find it and run words.
func (r *rig) once(first, words string) []string {
	return []string{"sh", "-c", `if [ -e "$0" ]; then exec ` + words + `; fi; : >"$0"; exec ` + first, r.dir + "/marker"}
}

// TestRollVerb: 'fdclient roll' ends once all workers of a name are replaced, whichever run has them, and no request
// fails. If one of them cannot be, it says why, and the old ones serve.
func TestRollVerb(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newRig(t, "")
	var runs []*process
	for _, w := range ways {
		p := r.run(append(w.name, "-n", "2", "--ready", "notify", "--", "worker", "a", w.how)...)
		p.says(`"message":"ready"`)
		runs = append(runs, p)
	}
	l := startLoad(t, r.address)
	l.waitFor("a", 10)
	for range 3 {
		old := r.holders(protocol.StateActive, 2*len(runs))
		if got, want := r.roll(0, "web"), strings.Repeat("2 workers were replaced\n", len(runs)); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		fdtest.Eventually(t, "the broker has seen that the old ones are gone", func() bool {
			return !slices.ContainsFunc(r.running(), func(pid int) bool { return slices.Contains(old, pid) })
		})
	}
	bad := r.run(append([]string{"web", "--ready", "notify", "--"}, r.once("worker a fd", "false")...)...)
	bad.says(`"message":"ready"`)
	old := r.holders(protocol.StateActive, 2*len(runs)+1)
	want := "fdclient: deploy failed: new worker exited before it was ready (exit status 1); old workers keep running\n"
	if got := r.roll(1, "--pid", bad.pid()); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !slices.Contains(r.running(), old[len(old)-1]) {
		t.Error("the old worker does not run")
	}
	want = "fdclient: pid " + bad.pid() + ": " + strings.TrimPrefix(want, "fdclient: ")
	if got := r.roll(1, "web"); !strings.HasSuffix(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	l.waitFor("a", 10)
	l.done(0)
	for _, p := range append(runs, bad) {
		p.signal(syscall.SIGTERM)
		p.ends(0)
	}
	if got := r.roll(1, "web"); !strings.Contains(got, `keeps workers of "web" alive`) {
		t.Errorf("got %q", got)
	}
	if got := r.roll(1, "api"); !strings.Contains(got, `no listener is called "api"`) {
		t.Errorf("got %q", got)
	}
}

// TestRollVerbWithoutBroker: --pid needs no broker, if the workers need none.
func TestRollVerbWithoutBroker(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := &rig{t: t, dir: fdtest.SocketDir(t)}
	b := r.start("fdbroker", "--store=none")
	b.says(`"ready"`)
	p := r.run("--ready", "1ms", "--", "sleep", "1000")
	p.says(`"message":"ready"`)
	b.signal(syscall.SIGTERM)
	b.ends(0)
	if got := r.roll(0, "--pid", p.pid()); got != "1 worker was replaced\n" {
		t.Errorf("got %q", got)
	}
	if got := r.roll(1, "web"); !strings.Contains(got, "no broker") {
		t.Errorf("got %q", got)
	}
}

// TestRollVerbWaits: how a wait ends without a result: the time is over, or run exits. It goes on if a client has left.
func TestRollVerbWaits(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newRig(t, "")
	p := r.run(append([]string{"web", "--ready", "notify", "--"}, r.once("worker a fd", "worker a fd mute")...)...)
	p.says(`"message":"ready"`)
	if got := r.roll(1, "--pid", p.pid(), "--timeout", "50ms"); got != "fdclient: not over after 50ms: the roll continues\n" {
		t.Errorf("got %q", got)
	}
	left := r.start("fdclient", "roll", "web")
	p.saysTimes("asked for a roll", 2)
	left.signal(syscall.SIGKILL)
	<-left.done
	waits := r.start("fdclient", "roll", "web")
	p.saysTimes("asked for a roll", 3)
	p.signal(syscall.SIGKILL)
	waits.ends(1)
	if got, want := waits.output(), "fdclient: process "+p.pid()+" has exited meanwhile\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestRollVerbOfOthers: only the same user and root may ask for a roll.
func TestRollVerbOfOthers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to start programs of other users")
	}
	fdtest.CheckLeaks(t)
	const workers, others = 65533, 65532
	r := newRig(t, ",allow=any")
	for _, path := range []string{bin, r.dir, r.dir + "/c"} {
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	p := r.startAs(workers, "fdclient", "run", "web", "--ready", "notify", "--", "worker", "a", "fd")
	p.says(`"message":"ready"`)
	for uid, want := range map[uint32]string{0: "", workers: "", others: "only root and uid 65533 may ask for it"} {
		status := 1
		if want == "" {
			status, want = 0, "1 worker was replaced"
		}
		q := r.startAs(uid, "fdclient", "roll", "--pid", p.pid())
		q.ends(status)
		if got := q.output(); !strings.Contains(got, want) {
			t.Errorf("uid %d: got %q, want %q", uid, got, want)
		}
	}
	q := r.startAs(others, "fdclient", "roll", "web")
	q.ends(1)
	if got := q.output(); !strings.Contains(got, "no 'fdclient run' of your user") {
		t.Errorf("got %q", got)
	}
}
