package examples_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// A keptAlive is a client that uses one connection as long as the server lets it. It
// repeats no request, as a POST must not be: a dropped request has failed.
type keptAlive struct {
	address string
	conn    net.Conn
	reader  *bufio.Reader
}

// post returns the first word of the answer.
func (k *keptAlive) post() (string, error) {
	if k.conn == nil {
		c, err := net.Dial("tcp", k.address)
		if err != nil {
			return "", err
		}
		k.conn, k.reader = c, bufio.NewReader(c)
	}
	_ = k.conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(k.conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx"); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(k.reader, nil)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(resp.Body)
	if resp.Close {
		k.close()
	}
	word, _, ok := strings.Cut(string(body), " from process ")
	if err == nil && (!ok || resp.StatusCode != http.StatusOK) {
		err = fmt.Errorf("%s: %q", resp.Status, body)
	}
	return word, err
}

func (k *keptAlive) close() {
	if k.conn != nil {
		_ = k.conn.Close()
	}
	k.conn = nil
}

// TestDeploy: one version is deployed over the other, and workers are replaced one by
// one, under the load of clients that keep their connections alive. No request fails.
func TestDeploy(t *testing.T) {
	fdtest.CheckLeaks(t)
	address := startBroker(t)
	deploy := func(version string) *process {
		return start(t, `"message":"ready"`, filepath.Join(programs, "fdclient"), "run", "-n", "2", "--ready", "notify", "--replace", "--",
			filepath.Join(programs, "http"), "-greeting", version)
	}
	run := deploy("v0")

	var mu sync.Mutex
	answers := map[string]int{}
	var failed []error
	quit := make(chan struct{})
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			k := &keptAlive{address: address}
			defer k.close()
			for {
				select {
				case <-quit:
					return
				case <-time.After(time.Millisecond):
				}
				version, err := k.post()
				mu.Lock()
				answers[version]++
				if err != nil {
					failed = append(failed, err)
					k.close()
				}
				mu.Unlock()
			}
		})
	}
	answered := func(version string, n int) {
		fdtest.Eventually(t, version+" answers", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return answers[version] >= n
		})
	}
	answered("v0", 50)
	for i := 1; i <= 5; i++ {
		version := fmt.Sprint("v", i)
		next := deploy(version)
		if err := run.wait(); err != nil {
			t.Errorf("the run that was replaced ended with %v", err)
		}
		run = next
		answered(version, 50)
		run.signal(syscall.SIGHUP)
	}
	close(quit)
	clients.Wait()
	run.signal(syscall.SIGTERM)
	if err := run.wait(); err != nil {
		t.Errorf("run ended with %v", err)
	}
	total := 0
	for _, n := range answers {
		total += n
	}
	t.Logf("%d requests, %d failed", total, len(failed))
	if len(failed) > 0 {
		t.Errorf("%d of %d requests failed, first: %v", len(failed), total, failed[0])
	}
}
