//go:build linux

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

// hub knows which workers live.
type hub struct {
	t   *testing.T
	dir string

	mu    sync.Mutex
	alive map[int]net.Conn // by pid
	born  []time.Time      // when each that ever was came
	said  string           // by the last one
	min   int              // how few lived at once, since watch
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
	h.mu.Unlock()
	_, _ = c.Write([]byte("k"))
	_, _ = r.ReadByte() // until it has ended
	h.mu.Lock()
	delete(h.alive, pid)
	h.min = min(h.min, len(h.alive))
	h.mu.Unlock()
}

// watch forgets how few there were.
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

// aged waits until the one that was born last has lived so long.
func (h *hub) aged(d time.Duration) {
	h.t.Helper()
	fdtest.Eventually(h.t, "it has lived a while", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.born) > 0 && time.Since(h.born[len(h.born)-1]) >= d
	})
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
