package realservers

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

// outcome is what became of a request.
type outcome int

const (
	answered outcome = iota
	refused          // nobody listened: the port went dark
	timedOut         // connected, or tried to, and nobody answered for long
	dropped          // connected, and closed or reset without a whole answer
	wrong            // an answer that is none
)

var outcomes = []string{"answered", "refused", "timed out", "dropped", "answered wrongly"}

func (o outcome) String() string { return outcomes[o] }

// requestTimeout is far longer than any server here takes to start.
const requestTimeout = 15 * time.Second

// exchange makes a connection for one request, and never repeats it.
func exchange(address string, talk func(net.Conn) (string, error)) (pid int, kind outcome, err error) {
	conn, err := net.DialTimeout("tcp", address, requestTimeout)
	if err != nil {
		if errors.Is(err, syscall.ECONNREFUSED) {
			return 0, refused, err
		}
		return 0, timedOut, err // or whatever else keeps a connection from being made
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return 0, wrong, err
	}
	text, err := talk(conn)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return 0, timedOut, err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return 0, dropped, err
	case err != nil:
		return 0, wrong, err
	}
	pid, err = strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		return 0, wrong, fmt.Errorf("%q is not the pid of a server: %w", text, err)
	}
	return pid, answered, nil
}

// askHTTP asks for the page of every server here: the pid of the process that answers.
func askHTTP(address, _ string) (int, outcome, error) {
	return exchange(address, func(conn net.Conn) (string, error) {
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: "+address+"\r\nConnection: close\r\n\r\n"); err != nil {
			return "", err
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %q", resp.Status, body)
		}
		return string(body), err
	})
}

// A load is a few clients that ask one request after the other, each on a
// connection of its own.
type load struct {
	t    *testing.T
	stop func() // ends the load; may be called more than once

	mu      sync.Mutex
	count   [wrong + 1]int // by outcome
	errors  []string       // the first few
	answers []answer
}

type answer struct {
	asked time.Time
	group int // process group of who answered; 0: it has gone since
}

func startLoad(t *testing.T, ask func() (int, outcome, error)) *load {
	l := &load{t: t}
	l.stop = fdtest.Clients(t, 5*time.Millisecond, func() {
		asked := time.Now()
		pid, kind, err := ask()
		l.add(asked, pid, kind, err)
	})
	return l
}

func (l *load) add(asked time.Time, pid int, kind outcome, err error) {
	group := 0
	if kind == answered {
		group, _ = unix.Getpgid(pid) // 0 where it has ended
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count[kind]++
	if kind == answered {
		l.answers = append(l.answers, answer{asked, group})
	} else if len(l.errors) < 10 {
		l.errors = append(l.errors, fmt.Sprintf("%v: %v", kind, err))
	}
}

// waitFor waits until n requests that are sent from now on were answered by s.
func (l *load) waitFor(s *server, n int) {
	l.t.Helper()
	since := time.Now()
	fdtest.Eventually(l.t, "the new server answers", func() bool {
		s.check()
		l.mu.Lock()
		defer l.mu.Unlock()
		seen := 0
		for i := len(l.answers) - 1; i >= 0 && seen < n; i-- {
			if a := l.answers[i]; a.group == s.group() && a.asked.After(since) {
				seen++
			}
		}
		return seen >= n
	})
}
