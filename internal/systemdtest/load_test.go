package systemdtest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// ask asks a worker for its pid.
func ask() (string, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	return exchange(conn)
}

func exchange(conn net.Conn) (string, error) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// clients is how many ask at a time.
const clients = 4

// load is clients that ask one request after the other.
type load struct {
	t                          *testing.T
	answered, refused, dropped atomic.Int64
	done                       chan struct{}
	running                    sync.WaitGroup
}

func startLoad(t *testing.T) *load {
	l := &load{t: t, done: make(chan struct{})}
	for range clients {
		l.running.Go(func() {
			for {
				select {
				case <-l.done:
					return
				default:
				}
				switch _, err := ask(); {
				case err == nil:
					l.answered.Add(1)
				case errors.Is(err, syscall.ECONNREFUSED):
					l.refused.Add(1)
				default:
					l.dropped.Add(1)
				}
			}
		})
	}
	return l
}

// more waits until so many more requests were answered.
func (l *load) more(n int64) {
	l.t.Helper()
	from := l.answered.Load()
	fdtest.Eventually(l.t, fmt.Sprintf("%d more answers", n), func() bool { return l.answered.Load() >= from+n })
}

func (l *load) stop() {
	close(l.done)
	l.running.Wait()
}
