//go:build linux

package broker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// drain asks holders to leave, and returns how many were asked.
func (b *testBroker) drain(o broker.DrainOptions, names ...string) int {
	b.t.Helper()
	n, err := b.client().Drain(context.Background(), o, names...)
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

// accepting makes ln answer with text, and returns the error that ends that.
func accepting(ln net.Listener, text string) <-chan error {
	over := make(chan error, 1)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				over <- err
				return
			}
			_, _ = io.WriteString(c, text)
			_ = c.Close()
		}
	}()
	return over
}

func wantDrained(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, broker.ErrDrained) || !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want ErrDrained, which is net.ErrClosed", err)
	}
}

// TestDrained: a listener that is asked to leave returns ErrDrained, and its place and queued
// connections go to others.
func TestDrained(t *testing.T) {
	for name, spec := range streamSpecs(t) {
		t.Run(name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			b := startBroker(t, spec)
			leaving, staying := b.dial("web"), b.dial("web")
			var over []<-chan error
			for range 3 {
				over = append(over, accepting(leaving, "leaving"))
			}
			if n := b.drain(broker.DrainOptions{Before: staying.Grant()}, "web"); n != 1 {
				t.Errorf("%d were asked", n)
			}
			for _, err := range over {
				wantDrained(t, <-err)
			}
			_, err := leaving.Accept()
			wantDrained(t, err)
			b.waitHolders("web", 1)
			queued := connect(t, staying.Addr())
			accepting(staying, "staying")
			if got := read(t, queued); got != "staying" {
				t.Errorf("got %q", got)
			}
			if err := leaving.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			if err := staying.Close(); err != nil {
				t.Error(err)
			}
			if _, err := staying.Accept(); errors.Is(err, broker.ErrDrained) || !errors.Is(err, net.ErrClosed) {
				t.Errorf("a listener that was closed: got %v", err)
			}
		})
	}
}

// TestDrainedBeforeAccept: the first Accept returns the error of an earlier drain.
func TestDrainedBeforeAccept(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0")
	ln := b.dial("web")
	b.drain(broker.DrainOptions{}, "web")
	_, err := ln.Accept()
	wantDrained(t, err)
	b.waitHolders("web", 0)
}

// TestDrainedTogether: listeners of one grant leave together, and those of another stay.
func TestDrainedTogether(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "a=127.0.0.1:0", "b=127.0.0.1:0")
	all, err := b.dialer().DialAll(context.Background(), "a", "b")
	if err != nil {
		t.Fatal(err)
	}
	other := b.dial("b")
	over := []<-chan error{accepting(all[0], ""), accepting(all[1], "")}
	go answer(other, "other")
	b.drain(broker.DrainOptions{}, "a")
	for i, over := range over {
		wantDrained(t, <-over)
		if err := all[i].Close(); err != nil {
			t.Error(err)
		}
	}
	b.waitHolders("b", 1)
	if got := ask(t, other.Addr()); got != "other" {
		t.Errorf("got %q", got)
	}
}

func TestPacketDrained(t *testing.T) {
	for name, spec := range map[string]string{
		"udp": "dns=udp://127.0.0.1:0", "unixgram": "dns=unixgram://" + filepath.Join(fdtest.SocketDir(t), "g"),
	} {
		t.Run(name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			b := startBroker(t, spec)
			pc, err := b.dialer().DialPacket(context.Background(), "dns")
			if err != nil {
				t.Fatal(err)
			}
			defer pc.Close()
			over := make(chan error)
			go func() {
				_, _, err := pc.ReadFrom(make([]byte, 1))
				over <- err
			}()
			b.drain(broker.DrainOptions{}, "dns")
			wantDrained(t, <-over)
			_, _, err = pc.ReadFrom(make([]byte, 1))
			wantDrained(t, err)
			b.waitHolders("dns", 0)
		})
	}
}

// TestDrainAgainstClose: a drain and a Close at the same time leave nothing behind.
func TestDrainAgainstClose(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0")
	client := b.client()
	for range 100 {
		ln := b.dial("web")
		over := accepting(ln, "")
		var both sync.WaitGroup
		both.Go(func() {
			if _, err := client.Drain(context.Background(), broker.DrainOptions{}, "web"); err != nil {
				t.Error(err)
			}
		})
		both.Go(func() { _ = ln.Close() })
		both.Wait()
		if err := <-over; !errors.Is(err, net.ErrClosed) {
			t.Fatal(err)
		}
	}
	b.waitHolders("web", 0)
}

// TestDrainProgress: Drain can wait until all have left.
func TestDrainProgress(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0")
	first, second := b.dial("web"), b.dial("web") // neither of which accepts
	var left []int
	n, err := b.client().Drain(context.Background(), broker.DrainOptions{Progress: func(n int) {
		left = append(left, n)
		if len(left) == 1 {
			_ = second.Close()
			b.waitHolders("web", 1)
			_ = first.Close()
		}
	}}, "web")
	if err != nil || n != 2 || left[0] != 2 || left[len(left)-1] != 0 || !slices.IsSortedFunc(left, func(a, b int) int { return b - a }) {
		t.Errorf("got %d, %v after %v", n, err, left)
	}
	ctx, cancel := context.WithCancel(context.Background())
	staying := b.dial("web")
	n, err = b.client().Drain(ctx, broker.DrainOptions{Progress: func(int) { cancel() }}, "web")
	if !errors.Is(err, context.Canceled) || n != 1 {
		t.Errorf("cancelled: got %d, %v", n, err)
	}
	_ = staying.Close()
}

// TestDrainOfNobody: errors, and Get's generation.
func TestDrainErrors(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0")
	ln := b.dial("web")
	for _, o := range []broker.DrainOptions{{}, {Progress: func(int) { t.Error("progress") }}} {
		if _, err := b.client().Drain(context.Background(), o, "web", "none"); !errors.Is(err, broker.ErrUnknownName) {
			t.Errorf("got %v", err)
		}
	}
	f := startFake(t)
	for _, o := range []broker.DrainOptions{{}, {Progress: func(int) {}}} {
		go func() {
			c := f.accept()
			c.readCall()
			c.send(`{"parameters":{"drained":2,"left":0,"failed":3}}`+end, 0)
		}()
		client := broker.Client{Socket: f.path}
		n, err := client.Drain(context.Background(), o, "web")
		if e, ok := errors.AsType[*broker.UnaskedError](err); !ok || !errors.Is(err, broker.ErrUnasked) || e.Count != 3 || n != 2 {
			t.Errorf("got %d, %v", n, err)
		}
		_ = client.Close()
	}
	b.drain(broker.DrainOptions{}, "web")
	t.Setenv(broker.GenerationEnv, strconv.FormatInt(ln.Grant(), 10))
	if _, err := b.dialer().Dial(context.Background(), "web"); !errors.Is(err, broker.ErrReplaced) {
		t.Errorf("Dial: got %v", err)
	}
	if _, err := b.client().Get(context.Background(), broker.GetOptions{}, "web"); !errors.Is(err, broker.ErrReplaced) {
		t.Errorf("Get: got %v", err)
	}
	sockets, err := b.client().Get(context.Background(), broker.GetOptions{Generation: ln.Grant() + 1}, "web")
	if err != nil {
		t.Fatal(err)
	}
	_ = sockets[0].FD.Close()
}

// TestReplace: Replace asks older holders to leave, and neither its own deploy nor newer
// ones.
func TestReplace(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0", "dns=udp://127.0.0.1:0")
	old := b.dial("web")
	over := accepting(old, "old")
	oldPacket, err := b.dialer().DialPacket(context.Background(), "dns")
	if err != nil {
		t.Fatal(err)
	}
	defer oldPacket.Close()
	first, second := b.dial("web"), b.dial("web")
	firstOver, secondOver := accepting(first, "first"), accepting(second, "second")
	if n, err := first.Replace(context.Background()); n != 1 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	wantDrained(t, <-over)
	b.waitHolders("web", 2) // the broker may see the end of one connection after the next call of another
	if n, err := second.Replace(context.Background()); n != 1 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	wantDrained(t, <-firstOver)

	// Workers of one deploy.
	generation := make(chan int64, 1)
	ctx := t.Context()
	replaced := make(chan error, 1)
	go func() {
		c := broker.Client{Socket: b.path}
		replaced <- c.Deploy(ctx, broker.DeployOptions{Joined: func(g int64) { generation <- g }}, "web")
	}()
	t.Setenv(broker.GenerationEnv, strconv.FormatInt(<-generation, 10))
	siblings := []*broker.Listener{b.dial("web"), b.dial("web")}
	siblingOver := []<-chan error{accepting(siblings[0], ""), accepting(siblings[1], "")}
	for _, ln := range siblings {
		if _, err := ln.Replace(context.Background()); err != nil {
			t.Error(err)
		}
	}
	wantDrained(t, <-secondOver)
	b.waitHolders("web", 2)

	t.Setenv(broker.GenerationEnv, "")
	newest := b.dial("web")
	if n, err := newest.Replace(context.Background()); n != 2 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	for _, over := range siblingOver {
		wantDrained(t, <-over)
	}
	if err := <-replaced; err != nil {
		t.Errorf("the deploy: %v", err)
	}
	packet, err := b.dialer().DialPacket(context.Background(), "dns")
	if err != nil {
		t.Fatal(err)
	}
	defer packet.Close()
	if n, err := packet.Replace(context.Background()); n != 1 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	_, _, err = oldPacket.ReadFrom(make([]byte, 1))
	wantDrained(t, err)
}

// TestReplaceAtOnce: of many workers that replace each other at once, the newest stays.
func TestReplaceAtOnce(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0")
	for range 20 {
		const parties = 5
		var all sync.WaitGroup
		over := make(chan error, parties)
		listeners := make([]*broker.Listener, parties)
		for i := range parties {
			all.Go(func() {
				ln, err := b.dialer().Dial(context.Background(), "web")
				if err != nil {
					t.Error(err)
					over <- err
					return
				}
				listeners[i] = ln
				go func() { over <- <-accepting(ln, strconv.FormatInt(ln.Grant(), 10)) }()
				if _, err := ln.Replace(context.Background()); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		for range parties - 1 {
			wantDrained(t, <-over)
		}
		newest := slices.MaxFunc(listeners, func(a, b *broker.Listener) int { return int(a.Grant() - b.Grant()) })
		if got, want := ask(t, newest.Addr()), strconv.FormatInt(newest.Grant(), 10); got != want {
			t.Errorf("grant %s answers, want %s", got, want)
		}
		b.waitHolders("web", 1)
		_ = newest.Close()
		<-over
	}
}

// TestDeployEnds: how Deploy ends without being replaced.
func TestDeployEnds(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0")
	deploy := func(ctx context.Context, generation int64, joined func(int64)) error {
		c := broker.Client{Socket: b.path}
		return c.Deploy(ctx, broker.DeployOptions{Generation: generation, Joined: joined}, "web")
	}
	ctx, cancel := context.WithCancel(context.Background())
	var generation int64
	if err := deploy(ctx, 0, func(g int64) { generation = g; cancel() }); !errors.Is(err, context.Canceled) || generation == 0 {
		t.Errorf("got %v, generation %d", err, generation)
	}
	err := deploy(context.Background(), generation, func(again int64) {
		if again != generation {
			t.Errorf("got generation %d, want %d", again, generation)
		}
		go b.stop()
	})
	if !errors.Is(err, broker.ErrLost) {
		t.Errorf("got %v", err)
	}
	b.stop()
	b = startBrokerAt(t, b.path, server.Config{}, "web=127.0.0.1:0")
	b.drain(broker.DrainOptions{Before: generation + 1}, "web")
	var draining sync.WaitGroup
	err = deploy(context.Background(), generation, func(int64) {
		draining.Go(func() { b.drain(broker.DrainOptions{}, "web") })
	})
	if err != nil {
		t.Errorf("got %v", err)
	}
	draining.Wait()
	if err := deploy(context.Background(), generation, func(int64) {}); !errors.Is(err, broker.ErrReplaced) {
		t.Errorf("got %v", err)
	}
}

// TestDeployEvents: the client acts on each event that it knows, and ignores those of later brokers.
func TestDeployEvents(t *testing.T) {
	fdtest.CheckLeaks(t)
	f := startFake(t)
	var got []string
	done := make(chan error, 1)
	go func() {
		c := broker.Client{Socket: f.path}
		defer c.Close()
		done <- c.Deploy(context.Background(), broker.DeployOptions{
			Joined:   func(generation int64) { got = append(got, fmt.Sprint("joined ", generation)) },
			Roll:     func() { got = append(got, "roll") },
			Replaced: func() { got = append(got, "replaced") },
		})
	}()
	conn := f.accept()
	conn.readCall()
	for _, p := range []string{`"generation":7`, `"generation":7,"event":"roll"`, `"generation":7,"event":"later"`, `"event":"later"`} {
		conn.send(`{"parameters":{`+p+`},"continues":true}`+end, 0)
	}
	conn.send(`{"parameters":{"generation":7,"event":"drain"}}`+end, 0)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if want := []string{"joined 7", "roll", "replaced"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// load is clients that make requests over and over, and count those that fail.
type load struct {
	stop     context.CancelFunc
	clients  sync.WaitGroup
	answered atomic.Int64
	failed   chan error
}

// startLoad starts n clients that call ask.
func startLoad(n int, ask func() error) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{stop: cancel, failed: make(chan error, 1000)}
	for range n {
		l.clients.Go(func() {
			for ctx.Err() == nil {
				if err := ask(); err != nil {
					select {
					case l.failed <- err:
					default:
					}
				} else {
					l.answered.Add(1)
				}
			}
		})
	}
	return l
}

// pass waits until n more requests were answered.
func (l *load) pass(t *testing.T, n int64) {
	t.Helper()
	until := l.answered.Load() + n
	fdtest.Eventually(t, "the load goes on", func() bool { return l.answered.Load() >= until })
}

// done ends the load, and fails the test if a request has failed.
func (l *load) done(t *testing.T) {
	t.Helper()
	l.stop()
	l.clients.Wait()
	close(l.failed)
	n := 0
	for err := range l.failed {
		if n++; n <= 5 {
			t.Error(err)
		}
	}
	if n > 0 {
		t.Errorf("%d failed, %d were answered", n, l.answered.Load())
	}
}

// TestQueueOfDrained: connections that arrive while listeners are replaced are answered, by
// the old or by the new one.
func TestQueueOfDrained(t *testing.T) {
	for name, spec := range streamSpecs(t) {
		if name == "unixpacket" {
			continue // the kernel may take the end of a connection for its first message
		}
		t.Run(name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			b := startBroker(t, spec)
			ln := b.dial("web")
			addr := ln.Addr()
			l := startLoad(6, func() error {
				c, err := net.Dial(addr.Network(), addr.String())
				if err != nil {
					return err
				}
				defer c.Close()
				buf := make([]byte, 10)
				n, err := c.Read(buf)
				if err == nil && string(buf[:n]) != "answer" {
					err = fmt.Errorf("got %q", buf[:n])
				}
				return err
			})
			over := accepting(ln, "answer")
			for range 8 {
				next := b.dial("web")
				nextOver := accepting(next, "answer")
				l.pass(t, 20)
				if _, err := next.Replace(context.Background()); err != nil {
					t.Error(err)
				}
				wantDrained(t, <-over)
				ln, over = next, nextOver
			}
			l.done(t)
			_ = ln.Close()
			<-over
		})
	}
}

// TestReplaceUnderLoad: HTTP servers replace each other, and no request fails, neither on a
// new connection nor on one that is kept alive.
func TestReplaceUnderLoad(t *testing.T) {
	for name, keepAlive := range map[string]bool{"connections": false, "keep-alive": true} {
		t.Run(name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			b := startBroker(t, "web=127.0.0.1:0")
			transport := &http.Transport{DisableKeepAlives: !keepAlive, MaxIdleConnsPerHost: 8}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport}
			url := "http://" + b.listener("web").Address + "/"
			l := startLoad(8, func() error {
				r, err := client.Get(url)
				if err != nil {
					return err
				}
				_, err = io.Copy(io.Discard, r.Body)
				return errors.Join(err, r.Body.Close())
			})
			var servers sync.WaitGroup
			serve := func(version int) *broker.Listener {
				ln := b.dial("web")
				srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, version) })}
				servers.Go(func() {
					err := srv.Serve(ln)
					if !errors.Is(err, net.ErrClosed) {
						t.Error(err)
					}
					if err := srv.Shutdown(context.Background()); err != nil {
						t.Error(err)
					}
				})
				return ln
			}
			ln := serve(0)
			for version := range 30 {
				ln = serve(version + 1)
				if n, err := ln.Replace(context.Background()); n < 1 || err != nil {
					t.Errorf("version %d: got %d, %v", version+1, n, err)
				}
				l.pass(t, 50)
			}
			l.done(t)
			_ = ln.Close()
			servers.Wait()
		})
	}
}
