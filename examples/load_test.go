package examples_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// A request is the outcome of one.
type request struct {
	start, end time.Time
	by         string // the pid that answered
	err        error
}

// client makes a connection for each request, and never repeats one.
var client = &http.Client{
	Transport: &http.Transport{DisableKeepAlives: true},
	Timeout:   10 * time.Second,
}

func get(url string) request {
	r := request{start: time.Now()}
	r.by, r.err = answeredBy(url)
	r.end = time.Now()
	return r
}

// answeredBy asks for the page, which names the process that made it.
func answeredBy(url string) (string, error) {
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	pid, ok := strings.CutPrefix(string(body), "hello from process ")
	if resp.StatusCode != http.StatusOK || !ok {
		return "", fmt.Errorf("%s: %q", resp.Status, body)
	}
	return strings.TrimSpace(pid), nil
}

// A load is a number of clients that ask one request after the other.
type load struct {
	t    *testing.T
	quit chan struct{}
	stop func() []request // ends the load; may be called more than once
	wg   sync.WaitGroup

	mu       sync.Mutex
	requests []request
	answers  []request
}

func startLoad(t *testing.T, url string, clients int) *load {
	l := &load{t: t, quit: make(chan struct{})}
	l.stop = sync.OnceValue(func() []request {
		close(l.quit)
		l.wg.Wait()
		return l.requests
	})
	t.Cleanup(func() { l.stop() })
	for range clients {
		l.wg.Go(func() {
			for {
				select {
				case <-l.quit:
					return
				case <-time.After(time.Millisecond): // a load, not a flood: ports are finite
					l.add(get(url))
				}
			}
		})
	}
	return l
}

func (l *load) add(r request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests = append(l.requests, r)
	if r.err == nil {
		l.answers = append(l.answers, r)
	}
}

// waitAnswers waits until n more requests have been sent and answered.
func (l *load) waitAnswers(n int) {
	l.t.Helper()
	since := time.Now()
	fdtest.Eventually(l.t, "the load is answered", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.answers) >= n && l.answers[len(l.answers)-n].start.After(since)
	})
}

// last returns the last answered request.
func (l *load) last() request {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answers[len(l.answers)-1]
}

// answeredBy counts the answers of each process.
func (l *load) answeredBy() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	by := map[string]int{}
	for _, r := range l.answers {
		by[r.by]++
	}
	return by
}
