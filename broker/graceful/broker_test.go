//go:build linux

package graceful_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/broker/graceful"
	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// startBroker starts a broker with listeners in this process, and returns a Dialer of it.
func startBroker(t testing.TB, specs ...string) *broker.Dialer {
	t.Helper()
	path := filepath.Join(fdtest.SocketDir(t), "c")
	s, err := server.New(server.Config{})
	if err != nil {
		t.Fatal(err)
	}
	control, err := server.ListenControl(server.ControlConfig{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range specs {
		parsed, err := spec.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Bind(parsed); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, control.Listener) }()
	t.Cleanup(func() {
		cancel()
		<-served
		_, _ = control.Close(), s.Close()
	})
	return &broker.Dialer{Socket: path}
}

// TestDrained: a broker's drain ends Serve, and a new version that is ready causes one.
func TestDrained(t *testing.T) {
	fdtest.CheckLeaks(t)
	d := startBroker(t, "web=127.0.0.1:0")
	serve := func(c graceful.Config, text string) (*broker.Listener, *serving) {
		ln, err := d.Dial(context.Background(), "web")
		if err != nil {
			t.Fatal(err)
		}
		return ln, run(t, c, graceful.HTTP(&http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(text))
		})}, ln))
	}
	ln, old := serve(graceful.Config{}, "old")
	kept := dial(t, ln)
	kept.send("/")
	if got, _ := kept.answer(); got != "old" {
		t.Errorf("got %q", got)
	}
	next, s := serve(graceful.Config{Replace: true}, "new")
	_, err := ln.Accept() // beside the server's
	if !errors.Is(err, broker.ErrDrained) {
		t.Errorf("got %v", err)
	}
	fdtest.Eventually(t, "the old one drains", func() bool {
		kept.send("/")
		_, last := kept.answer()
		return last
	})
	if err := old.wait(); err != nil {
		t.Error(err)
	}
	c := dial(t, next)
	c.send("/")
	if got, _ := c.answer(); got != "new" {
		t.Errorf("got %q", got)
	}
	_ = c.Close()
	s.stop()
	if err := s.wait(); err != nil {
		t.Error(err)
	}
}

// TestReplaceWrapped: the listener of a broker is found in those that wrap it.
func TestReplaceWrapped(t *testing.T) {
	fdtest.CheckLeaks(t)
	d := startBroker(t, "web=127.0.0.1:0")
	old, err := d.Dial(context.Background(), "web")
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	ln, err := d.Dial(context.Background(), "web")
	if err != nil {
		t.Fatal(err)
	}
	certificates, _ := certificate(t)
	wrapped := struct{ net.Listener }{tls.NewListener(ln, &tls.Config{Certificates: certificates})}
	s := run(t, graceful.Config{Replace: true}, graceful.HTTP(&http.Server{}, wrapped))
	left := make(chan error, 1)
	go func() {
		_, err := old.Accept()
		left <- err
	}()
	select {
	case err := <-left:
		if !errors.Is(err, broker.ErrDrained) {
			t.Error(err)
		}
	case <-time.After(fdtest.Long(5 * time.Second)):
		t.Error("the older holder was not asked to leave")
		_ = old.Close()
		<-left
	}
	s.stop()
	if err := s.wait(); err != nil {
		t.Error(err)
	}
}

// TestPacket: datagrams that were read are answered after a drain, and after ctx has ended.
func TestPacket(t *testing.T) {
	for _, end := range []string{"drain", "stop"} {
		t.Run(end, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			d := startBroker(t, "dns=udp://127.0.0.1:0")
			pc, err := d.DialPacket(context.Background(), "dns")
			if err != nil {
				t.Fatal(err)
			}
			read, answer := make(chan struct{}), make(chan struct{})
			var handlers sync.WaitGroup
			s := run(t, graceful.Config{Grace: grace}, graceful.Packet(pc, func() error {
				defer handlers.Wait()
				for {
					b := make([]byte, 10)
					n, from, err := pc.ReadFrom(b)
					if err != nil {
						return err
					}
					handlers.Go(func() {
						read <- struct{}{}
						<-answer
						_, _ = pc.WriteTo(b[:n], from)
					})
				}
			}))
			c, err := net.Dial("udp", pc.LocalAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(grace / 2))
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			<-read
			client := broker.Client{Socket: d.Socket}
			defer client.Close()
			if end == "stop" {
				s.stop()
			} else if _, err := client.Drain(context.Background(), broker.DrainOptions{}, "dns"); err != nil {
				t.Fatal(err)
			}
			fdtest.Eventually(t, "it is left", func() bool {
				list, err := client.List(context.Background())
				return err == nil && len(list.Holders) == 0
			})
			close(answer)
			b := make([]byte, 10)
			if n, err := c.Read(b); err != nil || string(b[:n]) != "hello" {
				t.Errorf("got %q, %v", b[:n], err)
			}
			if err := s.wait(); err != nil {
				t.Error(err)
			}
			if _, err := pc.WriteTo(b, c.LocalAddr()); !errors.Is(err, net.ErrClosed) {
				t.Errorf("it is not closed: %v", err)
			}
		})
	}
}

// TestPacketCut: a serve that does not return is not waited for.
func TestPacketCut(t *testing.T) {
	fdtest.CheckLeaks(t)
	pc, err := startBroker(t, "dns=udp://127.0.0.1:0").DialPacket(context.Background(), "dns")
	if err != nil {
		t.Fatal(err)
	}
	hang := make(chan struct{})
	defer close(hang)
	s := run(t, graceful.Config{Grace: time.Millisecond}, graceful.Packet(pc, func() error { <-hang; return nil }))
	s.stop()
	if cut, ok := errors.AsType[*graceful.CutError](s.wait()); !ok || cut.Count != 1 {
		t.Errorf("got %v", cut)
	}
}
