//go:build linux

package supervisor_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker/supervisor"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { fdtest.Main(m, map[string]func([]string) int{"worker": worker}) }

// worker is what the tests keep alive: it tells the hub that it lives, for as long as
// it does. Its first argument is the hub's directory, where the file "mode" has words
// that say how it behaves: notify, deaf, bad, brief, and asked: as notify, but only when
// it is told to go on.
func worker(args []string) int {
	text, err := os.ReadFile(args[0] + "/mode")
	if err != nil {
		return 99
	}
	mode := string(text)
	if strings.Contains(mode, "bad") {
		return 3
	}
	if strings.Contains(mode, "deaf") {
		signal.Ignore(syscall.SIGTERM)
	}
	c, err := net.Dial("unix", args[0]+"/hub")
	if err != nil {
		return 98
	}
	fmt.Fprintln(c, os.Getpid(), os.Getenv(supervisor.GenerationEnv), os.Getenv("NOTIFY_SOCKET") != "")
	_, _ = c.Read(make([]byte, 1)) // until the hub knows
	if strings.Contains(mode, "asked") {
		_, _ = c.Read(make([]byte, 1))
	}
	if strings.Contains(mode, "notify") || strings.Contains(mode, "asked") {
		if err := tell("STATUS=x\nREADY=1"); err != nil {
			return 97
		}
	}
	if strings.Contains(mode, "brief") {
		return 4
	}
	_, _ = c.Read(make([]byte, 1)) // until it is told to crash
	return 5
}

func tell(state string) error {
	c, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte(state))
	return err
}

// hub knows which workers live.
type hub struct {
	t   *testing.T
	dir string

	mu       sync.Mutex
	alive    map[int]net.Conn // by pid
	born     []time.Time      // when each that ever was came
	said     string           // by the last one
	min, max int              // how many lived at once, since watch
}

func newHub(t *testing.T, mode string) *hub {
	h := &hub{t: t, dir: fdtest.SocketDir(t), alive: make(map[int]net.Conn)}
	h.mode(mode)
	ln, err := net.Listen("unix", h.dir+"/hub")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { h.attend(c) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		h.each(func(pid int, c net.Conn) { _ = syscall.Kill(pid, syscall.SIGKILL) })
		wg.Wait()
	})
	return h
}

func (h *hub) mode(words string) {
	h.t.Helper()
	// In one step: a worker may be reading it.
	if err := os.WriteFile(h.dir+"/new", []byte(words), 0o600); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Rename(h.dir+"/new", h.dir+"/mode"); err != nil {
		h.t.Fatal(err)
	}
}

func (h *hub) attend(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	if err != nil {
		return
	}
	first, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	pid, _ := strconv.Atoi(first)
	h.mu.Lock()
	h.alive[pid], h.said = c, rest
	h.born = append(h.born, time.Now())
	h.max = max(h.max, len(h.alive))
	h.mu.Unlock()
	_, _ = c.Write([]byte("k"))
	_, _ = r.ReadByte() // until it has ended
	h.mu.Lock()
	delete(h.alive, pid)
	h.min = min(h.min, len(h.alive))
	h.mu.Unlock()
}

// watch forgets how many there were.
func (h *hub) watch() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.min, h.max = len(h.alive), len(h.alive)
}

func (h *hub) bounds() (least, most int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.min, h.max
}

func (h *hub) each(f func(pid int, c net.Conn)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for pid, c := range h.alive {
		f(pid, c)
	}
}

func (h *hub) pids() (pids []int) {
	h.each(func(pid int, _ net.Conn) { pids = append(pids, pid) })
	return pids
}

// tell tells a worker to go on: to say READY=1, if it waits for that, else to crash.
func (h *hub) tell(which int) {
	h.each(func(pid int, c net.Conn) {
		if pid == which {
			_, _ = c.Write([]byte("x"))
		}
	})
}

// another waits until so many were born, and returns the one that is not among old.
func (h *hub) another(births int, old ...int) (pid int) {
	h.t.Helper()
	fdtest.Eventually(h.t, "another one lives", func() bool {
		rest := slices.DeleteFunc(h.pids(), func(p int) bool { return slices.Contains(old, p) })
		if h.births() != births || len(rest) != 1 {
			return false
		}
		pid = rest[0]
		return true
	})
	return pid
}

func (h *hub) births() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.born)
}

func (h *hub) wait(n int) {
	h.t.Helper()
	fdtest.Eventually(h.t, fmt.Sprintf("%d workers live", n), func() bool { return len(h.pids()) == n })
}

// replaced waits until n live, none of which is among old.
func (h *hub) replaced(n int, old []int) {
	h.t.Helper()
	fdtest.Eventually(h.t, "all are new", func() bool {
		pids := h.pids()
		for _, pid := range old {
			if slices.Contains(pids, pid) {
				return false
			}
		}
		return len(pids) == n
	})
}

// running is a supervisor at work.
type running struct {
	t       *testing.T
	signals chan os.Signal
	cancel  context.CancelFunc
	done    chan struct{}
	err     error

	mu    sync.Mutex
	state []string // what it has told
}

// keep starts a supervisor of the hub's workers.
func (h *hub) keep(c supervisor.Config) *running {
	h.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		h.t.Fatal(err)
	}
	c.Command = supervisor.Command{Path: exe, Argv: []string{"worker", h.dir}, Env: append(os.Environ(), "FDTEST_HELPER=worker", "GORACE=atexit_sleep_ms=0")}
	return run(h.t, c)
}

func run(t *testing.T, c supervisor.Config) *running {
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{t: t, signals: make(chan os.Signal), cancel: cancel, done: make(chan struct{})}
	c.Tell = func(states ...string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.state = append(r.state, states...)
	}
	go func() {
		defer close(r.done)
		r.err = supervisor.Run(ctx, c, r.signals)
	}()
	t.Cleanup(func() { r.stop() })
	return r
}

func (r *running) signal(sig unix.Signal) {
	r.t.Helper()
	select {
	case r.signals <- sig:
	case <-r.done:
		r.t.Fatal("it has ended: ", r.err)
	case <-time.After(20 * time.Second):
		r.t.Fatal("it does not take signals")
	}
}

// stop stops it, and returns what Run has returned.
func (r *running) stop() error {
	r.cancel()
	return r.wait()
}

func (r *running) wait() error {
	r.t.Helper()
	select {
	case <-r.done:
	case <-time.After(20 * time.Second):
		r.t.Fatal("it does not end")
	}
	return r.err
}

func (r *running) told(state string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, s := range r.state {
		if strings.Contains(s, state) {
			n++
		}
	}
	return n
}

func (r *running) hears(state string) {
	r.t.Helper()
	fdtest.Eventually(r.t, "it tells "+state, func() bool { return r.told(state) > 0 })
}
