package runtest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
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
	cut     []error        // of connections that a worker may have accepted; see isCut
	failed  []error        // all others
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
	cut := isCut(text, err)
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	err = fmt.Errorf("after %v: %q, %w", time.Since(began), text, err)
	if cut {
		l.cut = append(l.cut, err)
	} else {
		l.failed = append(l.failed, err)
	}
}

// isCut reports whether a connection was made, and has ended without an answer: that is
// what the end of a worker does to the one that it had accepted.
func isCut(text string, err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return false
	}
	return text == "" && err == nil || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
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

// done ends the load. No more connections than workers were killed may have been cut, and
// nothing else may have failed.
func (l *load) done(killed int) {
	l.t.Helper()
	l.stop()
	l.t.Logf("%d requests, %d cut, %d failed, the slowest took %v", l.total, len(l.cut), len(l.failed), l.slowest)
	if len(l.cut) > killed {
		l.t.Errorf("%d of %d connections were cut, want %d at most; first: %v", len(l.cut), l.total, killed, l.cut[0])
	}
	if len(l.failed) > 0 {
		l.t.Errorf("%d of %d requests failed, first: %v", len(l.failed), l.total, l.failed[0])
	}
}

// TestIsCut: what the end of a worker excuses is a connection that was made and ends, and
// nothing else.
func TestIsCut(t *testing.T) {
	fdtest.CheckLeaks(t)
	for _, c := range []struct {
		name   string
		answer func(*net.TCPConn) // nil: nobody listens
		want   bool
	}{
		{"answered", func(c *net.TCPConn) { fmt.Fprintln(c, "a 1") }, false},
		{"closed", func(*net.TCPConn) {}, true},
		{"reset", func(c *net.TCPConn) { _ = c.SetLinger(0) }, true},
		{"refused", nil, false},
	} {
		ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		var serving sync.WaitGroup
		if c.answer == nil {
			_ = ln.Close()
		} else {
			serving.Go(func() {
				conn, err := ln.AcceptTCP()
				if err != nil {
					return
				}
				defer conn.Close()
				_, _ = conn.Read(make([]byte, 2)) // else closing it is a reset
				c.answer(conn)
			})
		}
		if text, err := ask(ln.Addr().String(), "x"); isCut(text, err) != c.want {
			t.Errorf("%s: %q, %v: is cut: %v", c.name, text, err, !c.want)
		}
		_ = ln.Close()
		serving.Wait()
	}
	for _, err := range []*net.OpError{
		{Op: "read", Err: os.ErrDeadlineExceeded},
		{Op: "dial", Err: os.ErrDeadlineExceeded},
		{Op: "dial", Err: syscall.ECONNRESET},
	} {
		if isCut("", err) {
			t.Errorf("%v: is cut", err)
		}
	}
}
