package recoverytest

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	fdtest.Main(m, map[string]func([]string) int{"worker": libraryWorker, "under": underHelper, "hidden": hiddenHelper, "noproc": noProcHelper})
}

// libraryWorker answers each connection with its pid: CONTROL NAME [hidden]. Hidden,
// nobody but root can take anything from it.
func libraryWorker(args []string) int {
	if len(args) > 2 {
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	ln, err := (&broker.Dialer{Socket: args[0]}).Dial(context.Background(), args[1])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for {
		c, err := ln.Accept()
		if err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Fprintln(c, os.Getpid())
		_ = c.Close()
	}
}

// library starts a worker that uses the library.
func (r *rig) library(name string, more ...string) *process {
	r.t.Helper()
	if _, err := os.Stat(r.path("worker")); err != nil {
		r.copyTest("worker")
	}
	cmd := r.command("worker", append([]string{r.path("c"), name}, more...)...)
	cmd.Env = append(cmd.Env, "FDTEST_HELPER=worker")
	p := r.startCmd(cmd)
	fdtest.Eventually(r.t, "the worker holds it", func() bool { return r.holder(p.pid()) != nil || p.exited() })
	return p
}

// copyTest puts the test binary where others than root may run it.
func (r *rig) copyTest(name string) {
	r.t.Helper()
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		r.t.Fatal(err)
	}
	defer exe.Close()
	f, err := os.OpenFile(r.path(name), os.O_CREATE|os.O_WRONLY, 0o755)
	if err == nil {
		_, err = io.Copy(f, exe)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// With one worker of the library left, a broker that has lost everything has its
// listener back, and the worker its grant: taken where that is allowed, and given
// where it is not.
func TestLibraryWorker(t *testing.T) {
	for name, c := range map[string]struct {
		cred *syscall.Credential
		more []string
		said string
	}{
		"taken":             {nil, nil, "recovered the socket"},
		"taken from hidden": {nil, []string{"hidden"}, "recovered the socket"}, // by root
		"taken, not root":   {&syscall.Credential{Uid: 1234, Gid: 1234}, nil, "recovered the socket"},
		"given, not root":   {&syscall.Credential{Uid: 1234, Gid: 1234}, []string{"hidden"}, "handed its socket back"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, c.cred)
			if c.said == "recovered the socket" {
				r.mayTrace()
			}
			spec := "web=" + freePort(t) + ",max=1"
			b := r.broker("--bind", spec)
			was := r.listener("web")
			w := r.library("web", c.more...)
			l := startLoad(t, was.Network, was.Address, "")
			l.waitFor(w.pid(), 10)
			for range 5 {
				b.kill()
				l.waitFor(w.pid(), 10)
				b = r.broker("--bind", spec)
				if is := r.listener("web"); is.Cookie != was.Cookie {
					t.Errorf("got %+v, want %+v", is, was)
				}
				fdtest.Eventually(t, "the worker has its grant", func() bool {
					h := r.holder(w.pid())
					return h != nil && h.Connection && h.State == "active" && r.listener("web").Holders == 1
				})
				if text := b.out.String(); !strings.Contains(text, c.said) {
					t.Errorf("the log does not say %q:\n%s", c.said, text)
				}
			}
			l.waitFor(w.pid(), 10)
			l.done()
		})
	}
}
