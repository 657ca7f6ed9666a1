//go:build linux

package graceful_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/broker/graceful"
	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// grace is longer than a test may take, if nothing is to be cut.
const grace = time.Minute

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln
}

// serving is a running Serve or Run.
type serving struct {
	t     *testing.T
	stop  func()
	ended chan error
}

func run(t *testing.T, c graceful.Config, servers ...graceful.Server) *serving {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	s := &serving{t, stop, make(chan error, 1)}
	go func() { s.ended <- graceful.Run(ctx, c, servers...) }()
	t.Cleanup(stop)
	return s
}

// wait returns what Run has returned.
func (s *serving) wait() error {
	s.t.Helper()
	select {
	case err := <-s.ended:
		return err
	case <-time.After(grace / 2):
		s.t.Fatal("Run does not return")
		return nil
	}
}

// client is a connection of HTTP/1.1.
type client struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, ln net.Listener) *client {
	t.Helper()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(grace / 2))
	return &client{t, c, bufio.NewReader(c)}
}

func (c *client) send(path string) {
	c.t.Helper()
	if _, err := io.WriteString(c, "POST "+path+" HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"); err != nil {
		c.t.Fatal(err)
	}
}

// answer returns the body of a response, and whether it is the last.
func (c *client) answer() (body string, last bool) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(b), resp.Close
}

// waitClosed waits until the server has closed the connection.
func (c *client) waitClosed() {
	c.t.Helper()
	if b, err := io.ReadAll(c.r); err != nil || len(b) > 0 {
		c.t.Errorf("got %q, %v, want the end", b, err)
	}
}

// pages are a handler: /slow answers when slow is closed, /hijack echoes lines until the client closes.
type pages struct {
	begun    chan struct{} // for each request of /slow
	slow     chan struct{}
	hijacked chan net.Conn
}

func newPages() *pages {
	return &pages{make(chan struct{}, 10), make(chan struct{}), make(chan net.Conn, 10)}
}

func (p *pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/slow":
		p.begun <- struct{}{}
		<-p.slow
	case "/hijack":
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		p.hijacked <- c // which outlives the handler
		return
	}
	_, _ = io.WriteString(w, "hello")
}

func TestReady(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := filepath.Join(fdtest.SocketDir(t), "n")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	s := run(t, graceful.Config{}, graceful.HTTP(&http.Server{}, listen(t)))
	b := make([]byte, 100)
	n, err := manager.Read(b)
	if err != nil || string(b[:n]) != "READY=1" {
		t.Errorf("got %q, %v", b[:n], err)
	}
	if os.Getenv("NOTIFY_SOCKET") != path {
		t.Error("the environment was changed")
	}
	s.stop()
	if err := s.wait(); err != nil {
		t.Error(err)
	}
}

// TestStopAtOnce: a context that has ended before anything was served is no error.
func TestStopAtOnce(t *testing.T) {
	fdtest.CheckLeaks(t)
	for range 50 {
		g := &grpcStub{make(chan net.Conn, 9), make(chan struct{}), make(chan struct{})}
		close(g.stopped)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := graceful.Run(ctx, graceful.Config{}, graceful.HTTP(&http.Server{}, listen(t)), graceful.GRPC(g, listen(t))); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAcceptedLast: a connection that is accepted while draining begins is served.
func TestAcceptedLast(t *testing.T) {
	fdtest.CheckLeaks(t)
	for range 50 {
		ln := &slowListener{Listener: listen(t), accepted: make(chan struct{})}
		s := run(t, graceful.Config{Grace: grace}, graceful.HTTP(&http.Server{Handler: newPages()}, ln))
		c := dial(t, ln)
		<-ln.accepted
		s.stop()
		c.send("/")
		if got, _ := c.answer(); got != "hello" {
			t.Fatalf("got %q", got)
		}
		_ = c.Close()
		if err := s.wait(); err != nil {
			t.Fatal(err)
		}
	}
}

// slowListener takes some time to return the first connection, after it has been closed.
type slowListener struct {
	net.Listener
	accepted chan struct{}
}

func (l *slowListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		close(l.accepted)
		time.Sleep(5 * time.Millisecond) // that is what it is slow for
	}
	return c, err
}

// TestKeptAlive: after the end of accepting, a kept-alive connection gets another answer, which is the last; one that is
// idle is closed after a while, and one with a request that is under way is not.
func TestKeptAlive(t *testing.T) {
	for _, h2 := range []bool{false, true} { // the server may have connections of this package
		t.Run(fmt.Sprintf("h2=%v", h2), func(t *testing.T) {
			fdtest.CheckLeaks(t)
			ln, p := listen(t), newPages()
			srv := &http.Server{Handler: p, Protocols: new(http.Protocols)}
			srv.Protocols.SetHTTP1(true)
			srv.Protocols.SetUnencryptedHTTP2(h2)
			drained := make(chan struct{})
			s := run(t, graceful.Config{Grace: 2 * time.Second, OnDrain: func() { close(drained) }}, graceful.HTTP(srv, ln))
			kept, idle, slow, silent := dial(t, ln), dial(t, ln), dial(t, ln), dial(t, ln)
			for _, c := range []*client{kept, idle} {
				c.send("/")
				if got, last := c.answer(); got != "hello" || last {
					t.Errorf("got %q, last=%v", got, last)
				}
			}
			slow.send("/slow")
			<-p.begun
			s.stop()
			<-drained
			fdtest.Eventually(t, "the server accepts no more", func() bool {
				c, err := net.Dial("tcp", ln.Addr().String())
				if err == nil {
					_ = c.Close()
				}
				return err != nil
			})
			fdtest.Eventually(t, "an answer is the last", func() bool {
				kept.send("/")
				_, last := kept.answer()
				return last
			})
			kept.waitClosed()
			idle.waitClosed() // after half of the grace
			silent.waitClosed()
			close(p.slow)
			if got, _ := slow.answer(); got != "hello" {
				t.Errorf("the slow request got %q", got)
			}
			_ = slow.Close()
			if err := s.wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestCut: what has not finished is closed and counted: requests and hijacked connections, and not what is idle.
func TestCut(t *testing.T) {
	fdtest.CheckLeaks(t)
	ln, p := listen(t), newPages()
	defer close(p.slow)
	var states sync.Map
	srv := &http.Server{Handler: p, ConnState: func(_ net.Conn, s http.ConnState) { states.Store(s, true) }}
	s := run(t, graceful.Config{Grace: 300 * time.Millisecond}, graceful.HTTP(srv, ln))
	slow, hijacked, over, idle := dial(t, ln), dial(t, ln), dial(t, ln), dial(t, ln)
	slow.send("/slow")
	<-p.begun
	hijacked.send("/hijack")
	<-p.hijacked
	over.send("/hijack")
	_ = (<-p.hijacked).Close()
	idle.send("/")
	idle.answer()
	s.stop()
	cut, ok := errors.AsType[*graceful.CutError](s.wait())
	if !ok || cut.Count != 2 || cut.Grace != 300*time.Millisecond || !strings.HasPrefix(cut.Error(), "2 connections were cut") {
		t.Errorf("got %v", cut)
	}
	for _, c := range []*client{slow, hijacked, over, idle} {
		c.waitClosed()
	}
	if _, ok := states.Load(http.StateHijacked); !ok {
		t.Error("srv.ConnState was not called")
	}
}

// TestHijacked: a hijacked connection is told by OnDrain, and waited for.
func TestHijacked(t *testing.T) {
	fdtest.CheckLeaks(t)
	ln, p := listen(t), newPages()
	var conn net.Conn
	drained := make(chan struct{})
	s := run(t, graceful.Config{Grace: grace, OnDrain: func() { close(drained) }}, graceful.HTTP(&http.Server{Handler: p}, ln))
	c := dial(t, ln)
	c.send("/hijack")
	conn = <-p.hijacked
	s.stop()
	<-drained
	select {
	case err := <-s.ended:
		t.Errorf("Run returned %v with an open connection", err)
	case <-time.After(200 * time.Millisecond): // to have the time for it
	}
	_, _ = io.WriteString(conn, "goodbye")
	_ = conn.Close()
	if b, err := io.ReadAll(c.r); string(b) != "goodbye" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
	if err := s.wait(); err != nil {
		t.Error(err)
	}
}

// stub is a Server of the test's.
type stub struct {
	err    error
	ended  chan struct{}
	closed sync.Once
	cut    int

	mu       sync.Mutex
	replaces []error // the results of Replace
}

func newStub() *stub { return &stub{ended: make(chan struct{})} }

func (s *stub) Serve() error {
	if s.err != nil {
		return s.err
	}
	<-s.ended
	return net.ErrClosed
}

func (s *stub) Close() error {
	s.closed.Do(func() { close(s.ended) })
	return nil
}

func (s *stub) Drain(context.Context) int { return s.cut }

func (s *stub) Replace(context.Context) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.replaces[0]
	s.replaces = s.replaces[1:]
	return 0, err
}

// TestFailure: a server that fails ends the others, and all errors are returned.
func TestFailure(t *testing.T) {
	fdtest.CheckLeaks(t)
	failing, other := newStub(), newStub()
	failing.err = errors.New("no luck")
	failing.cut, other.cut = 1, 2
	err := run(t, graceful.Config{}, failing, other, graceful.HTTP(&http.Server{}, listen(t))).wait()
	if cut, ok := errors.AsType[*graceful.CutError](err); !ok || cut.Count != 3 || !errors.Is(err, failing.err) {
		t.Errorf("got %v", err)
	}
}

// TestReplace: older holders are asked to leave, again if the broker is away, and an error is returned at the end.
func TestReplace(t *testing.T) {
	fdtest.CheckLeaks(t)
	a, b := newStub(), newStub()
	a.replaces = []error{fmt.Errorf("asked: %w", broker.ErrNoBroker), nil}
	b.replaces = []error{broker.ErrUnasked}
	s := run(t, graceful.Config{Replace: true}, a, b)
	fdtest.Eventually(t, "all were asked", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.replaces) == 0
	})
	s.stop()
	if err := s.wait(); !errors.Is(err, broker.ErrUnasked) || errors.Is(err, broker.ErrNoBroker) {
		t.Errorf("got %v", err)
	}
}

// slowReplacer is a stub whose Replace lasts as long as it may, and whose connections last until then.
type slowReplacer struct {
	*stub
	begun, ended chan struct{}
}

func (s *slowReplacer) Replace(ctx context.Context) (int, error) {
	close(s.begun)
	<-ctx.Done()
	close(s.ended)
	return 0, ctx.Err()
}

func (s *slowReplacer) Drain(ctx context.Context) (cut int) {
	select {
	case <-s.ended:
		return 0
	case <-ctx.Done():
		return 1
	}
}

// TestReplaceEnds: a process that was asked to leave makes no others leave.
func TestReplaceEnds(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := &slowReplacer{newStub(), make(chan struct{}), make(chan struct{})}
	s := run(t, graceful.Config{Replace: true, Grace: 2 * time.Second}, r)
	<-r.begun
	_ = r.Close() // as a drain does
	if err := s.wait(); err != nil {
		t.Error(err)
	}
}

// grpcStub is a server of connections that last until stopped is closed.
type grpcStub struct {
	accepted chan net.Conn
	graceful chan struct{}
	stopped  chan struct{}
}

func (s *grpcStub) Serve(ln net.Listener) error {
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		s.accepted <- c
	}
}

func (s *grpcStub) GracefulStop() {
	close(s.graceful)
	<-s.stopped
}

func (s *grpcStub) Stop() { close(s.stopped) }

// TestGRPC: GracefulStop comes first, then Stop, and connections are counted.
func TestGRPC(t *testing.T) {
	fdtest.CheckLeaks(t)
	ln := listen(t)
	g := &grpcStub{make(chan net.Conn, 9), make(chan struct{}), make(chan struct{})}
	s := run(t, graceful.Config{Grace: 500 * time.Millisecond}, graceful.GRPC(g, ln))
	for range 3 {
		dial(t, ln)
	}
	_ = (<-g.accepted).Close() // that is over
	defer (<-g.accepted).Close()
	defer (<-g.accepted).Close()
	s.stop()
	<-g.graceful
	if cut, ok := errors.AsType[*graceful.CutError](s.wait()); !ok || cut.Count != 2 {
		t.Errorf("got %v", cut)
	}
}
