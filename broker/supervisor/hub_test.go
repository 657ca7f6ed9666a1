package supervisor_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// hub is where workers connect, so it knows which of them live.
type hub struct {
	t   *testing.T
	dir string

	mu    sync.Mutex
	alive map[int]net.Conn // by pid
	born  []time.Time      // when each worker connected
	said  string           // by the last worker
	min   int              // the fewest that lived at once since watch
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
			wg.Go(func() { h.serve(c) })
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
	// By rename, because a worker may be reading it.
	if err := os.WriteFile(h.dir+"/new", []byte(words), 0o600); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Rename(h.dir+"/new", h.dir+"/mode"); err != nil {
		h.t.Fatal(err)
	}
}

func (h *hub) serve(c net.Conn) {
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
	h.mu.Unlock()
	_, _ = c.Write([]byte("k"))
	_, _ = r.ReadByte() // until it has exited
	h.mu.Lock()
	delete(h.alive, pid)
	h.min = min(h.min, len(h.alive))
	h.mu.Unlock()
}

// watch makes least count from now on.
func (h *hub) watch() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.min = len(h.alive)
}

func (h *hub) least() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.min
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

// aged waits until the youngest worker has lived so long.
func (h *hub) aged(d time.Duration) {
	h.t.Helper()
	fdtest.Eventually(h.t, "it has lived a while", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.born) > 0 && time.Since(h.born[len(h.born)-1]) >= d
	})
}

// tell makes a worker go on: a worker that is "asked" says READY=1, all others crash.
func (h *hub) tell(which int) {
	h.each(func(pid int, c net.Conn) {
		if pid == which {
			_, _ = c.Write([]byte("x"))
		}
	})
}

// another waits for that many births, and returns the worker that is not among old.
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

// replaced waits until n workers live, none of them among old.
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
