package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

func TestConfig(t *testing.T) {
	fdtest.CheckLeaks(t)
	for name, c := range map[string]server.Config{
		"MaxClients":       {MaxClients: -1},
		"MaxClientsPerUID": {MaxClientsPerUID: -1},
		"MaxGrantsPerUID":  {MaxGrantsPerUID: -1},
		"MaxNames":         {MaxNames: -1},
		"MaxNamesInCall":   {MaxNamesInCall: 254},
		"MaxMessage":       {MaxMessage: -1},
		"CallTimeout":      {CallTimeout: -1},
	} {
		if _, err := server.New(c); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMaxClients(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{MaxClients: 2})
	one, two := b.client(t), b.client(t)
	one.alive()
	two.alive()
	third := b.client(t)
	if l, ok := errors.AsType[*protocol.LimitError](third.refused()); !ok || l.Limit != "clients" || l.Max != 2 {
		t.Errorf("got %v", l)
	}
	third.ended()
	one.close()
	fdtest.Eventually(t, "the place is free", func() bool {
		c := b.client(t)
		defer c.close()
		_ = c.conn.Send(encode(t, method(protocol.MethodGetInfo, nil)))
		r, _, err := c.next()
		return err == nil && r.Err == nil
	})
	two.alive()
}

// A broker that stops ends everything under way: requests that wait, grants, clients that do not read, and
// those that send nothing.
func TestStop(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0")
	waiting, holding, idle, lazy := b.client(t), b.client(t), b.client(t), b.client(t)
	waiting.send(getOnce(protocol.GetParameters{Names: []string{"none"}, Wait: true}))
	holding.send(getMore(protocol.GetParameters{Names: []string{"a"}}))
	holding.got()
	lazy.send(get("a"), get("a")) // the second waits until the first is read
	idle.alive()
	if err := b.stop(); !errors.Is(err, server.ErrClosed) {
		t.Errorf("got %v", err)
	}
	for _, c := range []*client{waiting, holding, idle} {
		c.ended()
	}
	if _, err := net.Dial("unix", b.path); err == nil {
		t.Error("the control socket is left")
	}
}

// A process that holds a place when the broker is stopping goes on accepting: no other one gets that place.
func TestStopHandsNothingOver(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0,max=1")
	holder := b.client(t)
	holder.send(getMore(protocol.GetParameters{Names: []string{"a"}}))
	holder.got()
	var waiters []*client
	for i := range 20 {
		c := b.client(t)
		c.send(getMore(protocol.GetParameters{Names: []string{"a"}, Wait: true}))
		b.held(t, "a", 1, i+1)
		waiters = append(waiters, c)
	}
	if err := b.stop(); !errors.Is(err, server.ErrClosed) {
		t.Fatal(err)
	}
	for _, c := range waiters {
		c.ended()
	}
}

// If the control socket fails, Serve ends, with all connections.
func TestServeFails(t *testing.T) {
	fdtest.CheckLeaks(t)
	s, err := server.New(server.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	path := filepath.Join(fdtest.SocketDir(t), "c")
	ctl, err := server.ListenControl(server.ControlConfig{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer ctl.Close()
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background(), ctl.Listener) }()
	c := dialClient(t, path)
	c.alive()
	var serr error
	if err := ctl.Listener.Control(func(fd uintptr) { serr = unix.Shutdown(int(fd), unix.SHUT_RDWR) }); err != nil || serr != nil {
		t.Fatal(err, serr)
	}
	if err := <-served; errors.Is(err, server.ErrClosed) || err == nil {
		t.Errorf("got %v", err)
	}
	c.ended()
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
}

// After Close nothing is bound any more.
func TestBindAfterClose(t *testing.T) {
	fdtest.CheckLeaks(t)
	for range 20 {
		s, err := server.New(server.Config{})
		if err != nil {
			t.Fatal(err)
		}
		spec := parse(t, "a=127.0.0.1:0")
		bound := make(chan error)
		go func() { bound <- s.Bind(spec) }()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-bound; err != nil && !errors.Is(err, server.ErrClosed) {
			t.Error(err)
		}
		if err := s.Bind(spec); !errors.Is(err, server.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		if n := len(s.Listeners()); n != 0 {
			t.Errorf("%d listeners", n)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A broker without free descriptors waits, and goes on once there are some.
func TestOutOfDescriptors(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := filepath.Join(fdtest.SocketDir(t), "c")
	cmd := fdtest.Helper(t, "broker", path, `["a=127.0.0.1:0"]`, "6")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	type event struct {
		Message string `json:"message"`
		Wait    int64  `json:"wait_ms"`
		Error   string `json:"error"`
	}
	next := func() event { // the next event of the log
		t.Helper()
		for {
			line, err := readLine(out)
			if err != nil {
				t.Fatalf("the broker says %q: %v", line, err)
			}
			var e event
			if line == "ready" {
				return event{Message: line}
			}
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			if e.Message != "bound" {
				return e
			}
		}
	}
	next() // ready
	if e := next(); !strings.Contains(e.Message, "fewer clients than --max-clients") {
		t.Errorf("got %+v", e)
	}
	var clients []*client
	for range 10 {
		clients = append(clients, dialClient(t, path))
	}
	clients[0].alive()
	if e := next(); !strings.Contains(e.Error, "out of file descriptors") || !strings.Contains(e.Error, "raise the limit (ulimit -n, LimitNOFILE=)") {
		t.Errorf("nothing says what to do: %+v", e)
	}
	clients[0].send(get("a")) // there is no descriptor for a pidfd either
	if err := clients[0].refused(); !strings.Contains(err.Error(), "pidfd") {
		t.Errorf("got %v", err)
	}
	for _, c := range clients[1:] {
		c.close()
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_, _ = io.Copy(io.Discard, out)
	}()
	dialClient(t, path).alive()
	clients[0].send(get("a"))
	clients[0].got()
	_ = stdin.Close()
	<-drained
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// Bind, Unbind, Get, and the end of holders may all come at the same time.
func TestEverythingAtOnce(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "a=127.0.0.1:0,max=2", "b=127.0.0.1:0")
	done := make(chan error)
	spec := parse(t, "c=127.0.0.1:0,max=1")
	const turns = 100
	go func() {
		for range turns {
			if err := errors.Join(b.Bind(spec), b.Unbind("c")); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for i := range 6 {
		go func() {
			for range turns {
				c := b.client(t)
				names := [][]string{{"a"}, {"a", "b"}, {"b", "c"}}[i%3]
				c.send(getMore(protocol.GetParameters{Names: names, Wait: i%2 == 0 && i%3 != 2, Blocking: []*bool{nil, new(false)}[i%2]}))
				r, _ := c.reply()
				if r.Err != nil && !protocol.IsReply(r.Err) {
					done <- r.Err
					return
				}
				c.close()
			}
			done <- nil
		}()
	}
	for range 7 {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Fatal("it hangs")
		}
	}
	b.held(t, "a", 0, 0)
	b.held(t, "b", 0, 0)
}
