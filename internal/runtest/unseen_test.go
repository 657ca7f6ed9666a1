package runtest

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// newUnseenRig is a rig whose broker is in a pid namespace of its own, as in a container: it cannot follow its clients.
func newUnseenRig(t *testing.T) *rig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make a pid namespace")
	}
	r := &rig{t: t, dir: fdtest.SocketDir(t)}
	cmd := exec.Command(filepath.Join(bin, "fdbroker"), "--bind", "web=127.0.0.1:0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Cloneflags: syscall.CLONE_NEWPID}
	r.startCmd(cmd).says(`"ready"`)
	r.address = r.list().Listeners[0].Address
	return r
}

// web waits until the listener is as ok says.
func (r *rig) web(what string, ok func(l protocol.Listener) bool) {
	r.t.Helper()
	fdtest.Eventually(r.t, what, func() bool { return ok(r.list().Listeners[0]) })
}

// TestUnseenBlocking: a worker that the broker cannot follow has the O_NONBLOCK that it asked for as long as it lives,
// and longer.
func TestUnseenBlocking(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newUnseenRig(t)
	p := r.start("fdclient", "get", "--blocking", "web", "--", "sleep", "60")
	unseen := func(l protocol.Listener) bool { return l.Blocking && l.Unseen == 1 && l.Holders == 0 }
	r.web("it is known to be used, and blocking", unseen)
	client := func(status int, says string, args ...string) {
		t.Helper()
		c := r.start("fdclient", args...)
		c.ends(status)
		if out := c.output(); !strings.Contains(out, says) {
			t.Errorf("%q says %q", args, out)
		}
	}
	client(125, "in another pid namespace", "get", "--blocking=false", "web", "--", "true")
	client(0, "1 unseen", "list")
	client(0, "1 process in another pid namespace may hold it and was not asked", "drain", "web")
	client(0, "", "upgrade")
	r.web("so it is for the next broker", unseen)
	p.signal(syscall.SIGTERM)
	r.web("and later", unseen)
	client(0, "processes in another pid namespace got it, and may still accept on it", "unbind", "web")
}

// TestUnseenReplaced: a run that is replaced asks the workers to leave that the broker does not know.
func TestUnseenReplaced(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newUnseenRig(t)
	old := r.run("web", "-n", "2", "--ready", "notify", "--", "worker", "a", "fd")
	old.saysTimes("worker ready", 2)
	l := startLoad(t, r.address)
	l.waitFor("a", 5)
	next := r.run("web", "-n", "2", "--replace", "--ready", "notify", "--", "worker", "b", "fd")
	next.says("asked the workers of older deploys to leave")
	old.ends(0)
	l.waitFor("b", 20)
	l.done(0)
	next.signal(syscall.SIGTERM)
	next.ends(0)
}

// TestUnseenAdopted: a server that the broker cannot see, and whose socket it adopts, counts as one that uses the
// listener.
func TestUnseenAdopted(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newUnseenRig(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	r.start("fdclient", "adopt", "app", "--pid", strconv.Itoa(os.Getpid()), "--address", ln.Addr().String()).ends(0)
	if l := r.list().Listeners; len(l) != 2 || l[0].Name != "app" || l[0].Unseen != 1 {
		t.Errorf("adopted: %+v", l)
	}
}
