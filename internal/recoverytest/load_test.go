package recoverytest

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
	t    *testing.T
	stop func() // ends the load; may be called more than once

	mu     sync.Mutex
	failed []error
	by     map[string]int // answers, by the line
}

// startLoad starts a load. Each connection sends request first, if that is not empty.
func startLoad(t *testing.T, network, address, request string) *load {
	l := &load{t: t, by: make(map[string]int)}
	l.stop = fdtest.Clients(t, 2*time.Millisecond, func() { l.add(ask(network, address, request)) })
	return l
}

// ask returns the last line that a connection is answered with.
func ask(network, address, request string) (string, error) {
	conn, err := net.DialTimeout(network, address, 10*time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	if request != "" { // writing nothing fails where the answer was sent and the connection closed
		if _, err := io.WriteString(conn, request); err != nil {
			return "", err
		}
	}
	b, err := io.ReadAll(conn)
	if err == nil && !strings.HasSuffix(string(b), "\n") {
		err = fmt.Errorf("answered %q", b)
	}
	text := strings.TrimSpace(string(b))
	return text[strings.LastIndexByte(text, '\n')+1:], err
}

func (l *load) add(line string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failed = append(l.failed, err)
		return
	}
	l.by[line]++
}

// waitFor waits until a process has answered n more times.
func (l *load) waitFor(pid, n int) {
	l.t.Helper()
	count := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.by[fmt.Sprint(pid)]
	}
	before := count()
	fdtest.Eventually(l.t, fmt.Sprintf("pid %d answers", pid), func() bool { return count() >= before+n })
}

// done ends the load, none of which may have failed.
func (l *load) done() {
	l.t.Helper()
	l.stop()
	total := 0
	for _, n := range l.by {
		total += n
	}
	l.t.Logf("%d connections, %d failed", total+len(l.failed), len(l.failed))
	if len(l.failed) > 0 {
		l.t.Errorf("%d of %d connections failed, first: %v", len(l.failed), total, l.failed[0])
	}
}
