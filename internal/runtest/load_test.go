//go:build linux

package runtest

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// A load is clients that connect one time after the other, each for a line.
type load struct {
	t       *testing.T
	address string
	stop    func() // ends the load; may be called more than once

	mu      sync.Mutex
	total   int
	failed  []error
	version map[string]int // answers of each version
	slowest time.Duration
}

func startLoad(t *testing.T, address string) *load {
	l := &load{t: t, address: address, version: make(map[string]int)}
	l.stop = fdtest.Clients(t, 2*time.Millisecond, l.ask)
	return l
}

func (l *load) ask() {
	began := time.Now()
	text, err := ask(l.address, "x")
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total++
	l.slowest = max(l.slowest, time.Since(began))
	if version, _, ok := strings.Cut(text, " "); ok && err == nil {
		l.version[version]++
		return
	}
	l.failed = append(l.failed, fmt.Errorf("after %v: %q, %w", time.Since(began), text, err))
}

// ask sends a line, and returns the answer.
func ask(address, line string) (string, error) {
	c, err := net.DialTimeout("tcp", address, 15*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(15 * time.Second)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	return strings.TrimSpace(string(b)), err
}

// waitFor waits until there are n more answers of a version, or of any if that is empty.
func (l *load) waitFor(version string, n int) {
	l.t.Helper()
	count := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		if version == "" {
			return l.total
		}
		return l.version[version]
	}
	before := count()
	fdtest.Eventually(l.t, "version "+version+" answers", func() bool { return count() >= before+n })
}

// done ends the load. No more than so many may have failed.
func (l *load) done(tolerated int) {
	l.t.Helper()
	l.stop()
	l.t.Logf("%d requests, %d failed, the slowest took %v", l.total, len(l.failed), l.slowest)
	if len(l.failed) > tolerated {
		l.t.Errorf("%d of %d requests failed, first: %v", len(l.failed), l.total, l.failed[0])
	}
}
