package recoverytest

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

// With the keeper and the broker killed at once, and one worker left, nobody who connects
// notices, and the next broker has the same socket.
func TestBothKilled(t *testing.T) {
	for name, worker := range map[string]func(*rig) *process{
		"library": func(r *rig) *process { return r.library("web") },
		"foreign": func(r *rig) *process { return r.worker("web") },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			if name == "foreign" { // the library gives back
				r.mayTrace()
			}
			spec := "web=" + freePort(t)
			keeper := r.kept(spec)
			was := r.listener("web")
			w := worker(r)
			l := startLoad(t, was.Network, was.Address, "")
			l.waitFor(w.pid(), 10)
			for range 5 {
				r.killBoth(keeper)
				l.waitFor(w.pid(), 10)
				keeper = r.kept(spec)
				if is := r.listener("web"); is.Cookie != was.Cookie {
					t.Errorf("got %+v, want %+v", is, was)
				}
				fdtest.Eventually(t, "the worker is its holder again", func() bool { return r.holder(w.pid()) != nil })
			}
			l.waitFor(w.pid(), 10)
			l.done()
		})
	}
}

// kept starts a broker with a keeper, which is what it returns, and waits until it
// answers.
func (r *rig) kept(spec string) (keeper *process) {
	r.t.Helper()
	p := r.start("fdbroker", "--store=keeper", "--bind", spec)
	r.t.Cleanup(func() { // killed, one of them would bring the other back
		_ = p.Process.Signal(syscall.SIGTERM)
		_ = p.wait()
	})
	fdtest.Eventually(r.t, "the broker is ready", func() bool {
		return strings.Contains(p.out.String(), `"ready"`) || p.exited()
	})
	if p.exited() {
		r.t.Fatalf("the broker ended:\n%s", p.out.String())
	}
	return p
}

// killBoth kills the keeper and its broker: stopped first, so that neither can bring the
// other back. It returns when both have gone.
func (r *rig) killBoth(keeper *process) {
	r.t.Helper()
	text, err := os.ReadFile(r.path("c.lock"))
	if err != nil {
		r.t.Fatal(err)
	}
	broker, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		r.t.Fatal(err)
	}
	pidfd, err := unix.PidfdOpen(broker, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	defer unix.Close(pidfd)
	for _, signal := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} {
		for _, pid := range []int{keeper.pid(), broker} {
			if err := syscall.Kill(pid, signal); err != nil {
				r.t.Fatal(err)
			}
		}
	}
	_ = keeper.wait()
	// Its last thread closes its descriptors one after the other, and the lock late.
	fdtest.Eventually(r.t, "the broker has gone", func() bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
		return n == 1 && err == nil
	})
}
