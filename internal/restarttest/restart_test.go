package restarttest

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// standing starts a broker with listeners that every restart has to keep: one under load with a worker of either
// kind, one that was bound at run time, and a Unix one.
func standing(t testing.TB, args ...string) (r *rig, l *load) {
	t.Helper()
	r = start(t, append([]string{"--bind", "web=127.0.0.1:0", "--bind", "app=unix://" + fdtest.SocketDir(t) + "/s"}, args...)...)
	if _, err := r.client.Bind(context.Background(), "run=127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	r.worker("web")
	sleeper := exec.Command(filepath.Dir(r.program)+"/fdclient", "get", "run", "--", "sleep", "1000")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fdtest.Stop(sleeper.Process, func() { _ = sleeper.Wait() }) })
	fdtest.Eventually(t, "both hold what they asked for", func() bool { return len(r.holders()) == 2 })
	for _, listener := range r.list().Listeners {
		if listener.Name == "web" {
			l = r.load(listener.Address)
		}
	}
	l.more(20)
	return r, l
}

// holders returns the grants except that of this process, which comes and goes.
func (r *rig) holders() map[int64]protocol.Holder {
	r.t.Helper()
	holders := make(map[int64]protocol.Holder)
	for _, h := range r.list().Holders {
		if h.PID != os.Getpid() {
			holders[h.Grant] = h
		}
	}
	return holders
}

// keeps checks that all is as it was: the same sockets, held by the same grants.
func (r *rig) keeps(cookies map[string]uint64, holders map[int64]protocol.Holder) {
	r.t.Helper()
	if now := r.cookies(); !maps.Equal(now, cookies) {
		r.t.Fatalf("sockets: %v, were %v", now, cookies)
	}
	// At once, because a grant is reserved until its worker reclaims it.
	if now := r.holders(); !slices.Equal(ids(now), ids(holders)) {
		r.t.Fatalf("grants: %v, were %v", now, holders)
	}
}

func ids(holders map[int64]protocol.Holder) []string {
	var all []string
	for id, h := range holders {
		all = append(all, fmt.Sprint(id, h.PID, h.Names, h.Since, h.Generation, h.State, h.Connection))
	}
	slices.Sort(all)
	return all
}

func (r *rig) kill(pid int) {
	r.t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		r.t.Fatal(err)
	}
}

// TestKilled kills one of the two again and again, and the other one brings it back.
func TestKilled(t *testing.T) {
	itself := func(pid int) int { return pid }
	for _, c := range []struct {
		name           string
		rounds         int
		victim, keeper func(broker int) int // keeper: its pid afterwards
	}{
		{"broker", 5, itself, parentOf},
		{"keeper", 2, parentOf, itself},
	} {
		t.Run(c.name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			r, l := standing(t)
			cookies, holders := r.cookies(), r.holders()
			for range times(c.rounds) {
				pid, err := r.pid()
				if err != nil {
					t.Fatal(err)
				}
				keeper := c.keeper(pid)
				r.kill(c.victim(pid))
				if now := r.answers(pid); parentOf(now) != keeper {
					t.Errorf("the keeper is %d, and must be %d", parentOf(now), keeper)
				}
				r.keeps(cookies, holders)
				l.more(20)
			}
			l.end()
		})
	}
}

// TestEither kills one after the other, without a pause.
func TestEither(t *testing.T) {
	fdtest.CheckLeaks(t)
	r, l := standing(t)
	cookies, holders := r.cookies(), r.holders()
	for range times(2) {
		pid, _ := r.pid()
		r.kill(pid)
		pid = r.answers(pid)
		r.kill(parentOf(pid))
		r.answers(pid)
		r.keeps(cookies, holders)
	}
	l.more(20)
	l.end()
}

// replace puts another program where the broker was started from.
func (r *rig) replace(write func(path string)) {
	r.t.Helper()
	path := r.program + ".new"
	write(path)
	if err := os.Rename(path, r.program); err != nil {
		r.t.Fatal(err)
	}
}

// runsProgram waits until a process runs the program that is there now.
func (r *rig) runsProgram(pid int) {
	r.t.Helper()
	fdtest.Eventually(r.t, fmt.Sprintf("pid %d runs the program that is there now", pid), func() bool {
		a, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
		b, berr := os.Stat(r.program)
		return err == nil && berr == nil && os.SameFile(a, b)
	})
}

func (r *rig) copyOf(from string) func(string) {
	return func(path string) {
		text, err := os.ReadFile(from)
		if err != nil {
			r.t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o755); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *rig) script(text string) func(string) {
	return func(path string) {
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			r.t.Fatal(err)
		}
	}
}

// TestWaiting: a Get that waits when the broker is killed is answered by the next one, and watchers are told what
// happened.
func TestWaiting(t *testing.T) {
	fdtest.CheckLeaks(t)
	r, l := standing(t)
	c := broker.Client{Socket: r.socket}
	defer c.Close()
	got := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		sockets, err := c.Get(ctx, broker.GetOptions{Wait: true}, "later")
		for _, s := range sockets {
			_ = s.FD.Close()
		}
		got <- err
	}()
	waits := func() bool {
		return slices.ContainsFunc(r.list().Holders, func(h protocol.Holder) bool { return h.State == protocol.StateWaiting })
	}
	fdtest.Eventually(t, "it waits", waits)
	pid, _ := r.pid()
	r.kill(pid)
	r.answers(pid)
	fdtest.Eventually(t, "it waits again", waits)

	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	w := broker.Client{Socket: r.socket}
	defer w.Close()
	var told []protocol.Event
	err := w.Watch(ctx, func(e protocol.Event) error {
		if told = append(told, e); len(told) == 2 {
			return io.EOF
		}
		return nil
	})
	if err != io.EOF || told[0].What != protocol.EventWatching || told[1].What != protocol.EventRestarted || told[1].Why != protocol.WhyCrashed {
		t.Errorf("told %+v, %v", told, err)
	}
	if _, err := r.client.Bind(context.Background(), "later=127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
	l.end()
}
