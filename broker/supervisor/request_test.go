package supervisor_test

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker/supervisor"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

// roll asks this process's supervisor.
func roll(t *testing.T) (int, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return supervisor.Roll(ctx, os.Getpid())
}

func requests() string { return supervisor.RequestAddress(os.Getpid()) }

// TestRequest: a client that asks for a roll hears how many workers were replaced, or why they were not.
func TestRequest(t *testing.T) {
	fdtest.CheckLeaks(t)
	h := newHub(t, "notify")
	r := h.keep(supervisor.Config{Workers: 3, NotifyReady: true, ReadyTimeout: fdtest.Long(3 * time.Second), Requests: requests()})
	r.waitFor("3 of 3 workers ready")
	for range 3 {
		old := h.pids()
		if n, err := roll(t); n != 3 || err != nil {
			t.Errorf("got %d, %v", n, err)
		}
		h.replaced(3, old)
	}
	old := slices.Sorted(slices.Values(h.pids()))
	for mode, want := range map[string]string{
		"bad":  "deploy failed: new worker exited before it was ready (exit status 3); old workers keep running",
		"mute": "deploy failed: new worker did not say READY=1 in time; old workers keep running",
	} {
		h.mode(mode)
		_, err := roll(t)
		if _, failed := errors.AsType[*supervisor.RollError](err); !failed || err.Error() != want {
			t.Errorf("%s: got %v, want %s", mode, err, want)
		}
		fdtest.Eventually(t, "only the old ones live", func() bool {
			now := h.pids()
			slices.Sort(now)
			return slices.Equal(now, old)
		})
	}
	h.mode("notify")
	if n, err := roll(t); n != 3 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
}

// TestRequestTwice: a client that asks during a roll waits for the next one, which begins after it has asked.
func TestRequestTwice(t *testing.T) {
	fdtest.CheckLeaks(t)
	h := newHub(t, "asked")
	r := h.keep(supervisor.Config{Workers: 1, NotifyReady: true, Requests: requests()})
	first := h.another(1)
	h.tell(first)
	r.waitFor("1 of 1 workers ready")
	results := make(chan error, 5)
	ask := func() {
		go func() {
			_, err := roll(t)
			results <- err
		}()
	}
	ask()
	second := h.another(2, first)
	h.tell(second)
	if err := <-results; err != nil {
		t.Error(err)
	}
	r.signal(unix.SIGHUP)
	third := h.another(3, second)
	for range 5 {
		ask()
	}
	fdtest.Eventually(t, "all have asked", func() bool { return r.logged("asked for a roll") == 6 })
	h.mode("bad") // for the roll that all five wait for
	h.tell(third)
	for range 5 {
		if err := <-results; err == nil || !strings.Contains(err.Error(), "exit status 3") {
			t.Errorf("got %v", err)
		}
	}
}

// TestRequestOfNoUse: what a client hears that does not get a roll.
func TestRequestOfNoUse(t *testing.T) {
	fdtest.CheckLeaks(t)
	refused := func(want string) {
		t.Helper()
		if _, err := roll(t); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	refused("takes no requests") // there is no supervisor
	if _, err := supervisor.Roll(context.Background(), 1<<30); err == nil || !strings.Contains(err.Error(), "there is no process") {
		t.Errorf("got %v", err)
	}
	h, d := newHub(t, "notify deaf"), make(asks)
	r := h.keep(supervisor.Config{Workers: 1, NotifyReady: true, Deploy: d, Requests: requests(), Grace: time.Hour})
	fdtest.Eventually(t, "it can be asked", func() bool {
		_, err := roll(t)
		return !strings.Contains(err.Error(), "takes no requests")
	})
	refused("'fdclient run' waits for the broker")
	other := h.keep(supervisor.Config{Workers: 1, Requests: requests()})
	fdtest.Eventually(t, "it says that it cannot be asked", func() bool { return other.logged("'fdclient roll' cannot reach this process") == 1 })
	ends := func(r *running) {
		t.Helper()
		fdtest.Eventually(t, "it ends once its workers are killed", func() bool {
			h.each(func(pid int, _ net.Conn) { _ = syscall.Kill(pid, syscall.SIGKILL) })
			select {
			case <-r.done:
				return true
			default:
				return false
			}
		})
	}
	other.cancel()
	ends(other)
	d <- supervisor.DeployEvent{Generation: 7}
	r.waitFor("1 of 1 workers ready")
	var asking sync.WaitGroup
	asking.Go(func() { refused("'fdclient run' is ending: told to leave") }) // its old worker does not stop
	fdtest.Eventually(t, "it was asked", func() bool { return r.logged("asked for a roll") == 1 })
	d <- supervisor.DeployEvent{Replaced: true}
	asking.Wait()
	refused("'fdclient run' is ending: told to leave")
	ends(r)
}
