//go:build linux

package broker_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/fdtest"
)

func TestCloseWakesAccept(t *testing.T) {
	for name, spec := range streamSpecs(t) {
		t.Run(name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			b := startBroker(t, spec)
			ln := b.dial("web")
			accepted := make(chan error)
			for range 3 {
				go func() {
					_, err := ln.Accept()
					accepted <- err
				}()
			}
			if err := ln.Close(); err != nil {
				t.Error(err)
			}
			for range 3 {
				if err := <-accepted; !errors.Is(err, net.ErrClosed) {
					t.Errorf("Accept: %v", err)
				}
			}
			if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Accept after Close: %v", err)
			}
			if err := ln.Close(); err != nil {
				t.Errorf("second Close: %v", err)
			}
			b.waitHolders("web", 0)
		})
	}
}

// TestCloseLeavesOthersAlone: another holder goes on accepting, and gets the connections that
// were queued when the first one left.
func TestCloseLeavesOthersAlone(t *testing.T) {
	for name, spec := range streamSpecs(t) {
		t.Run(name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			b := startBroker(t, spec)
			leaving, staying := b.dial("web"), b.dial("web")
			queued := connect(t, staying.Addr())
			if err := leaving.Close(); err != nil {
				t.Fatal(err)
			}
			b.waitHolders("web", 1)
			c, err := staying.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(c, "queued"); err != nil {
				t.Error(err)
			}
			_ = c.Close()
			if got := read(t, queued); got != "queued" {
				t.Errorf("the queued connection got %q", got)
			}
			go answer(staying, "later")
			if got := ask(t, staying.Addr()); got != "later" {
				t.Errorf("a later connection got %q", got)
			}
		})
	}
}

// TestCloseKeepsQueue: queued connections survive the last holder.
func TestCloseKeepsQueue(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0")
	ln := b.dial("web")
	queued := connect(t, ln.Addr())
	_ = ln.Close()
	b.waitHolders("web", 0)
	if l := b.listener("web"); !l.Orphaned || *l.Queue != 1 {
		t.Errorf("orphaned %v, queue %d", l.Orphaned, *l.Queue)
	}
	go answer(b.dial("web"), "next")
	if got := read(t, queued); got != "next" {
		t.Errorf("got %q", got)
	}
}

func TestCloseKeepsPath(t *testing.T) {
	for _, network := range []string{"unix", "unixpacket", "unixgram"} {
		t.Run(network, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			path := filepath.Join(fdtest.SocketDir(t), "s")
			b := startBroker(t, "s="+network+"://"+path)
			var c io.Closer
			var err error
			if network == "unixgram" {
				c, err = b.dialer().DialPacket(context.Background(), "s")
			} else {
				c, err = b.dialer().Dial(context.Background(), "s")
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			b.waitHolders("s", 0)
			if _, err := os.Stat(path); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestWorkerDies: a worker that is killed costs no connection.
func TestWorkerDies(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0")
	addr, err := net.ResolveTCPAddr("tcp", b.listener("web").Address)
	if err != nil {
		t.Fatal(err)
	}
	kill, pid := start(t, "worker", b.path, "web")
	if got := ask(t, addr); got != strconv.Itoa(pid) {
		t.Errorf("answered by %q, want %d", got, pid)
	}
	kill()
	b.waitHolders("web", 0)
	queued := connect(t, addr)
	_, pid = start(t, "worker", b.path, "web")
	if got := read(t, queued); got != strconv.Itoa(pid) {
		t.Errorf("answered by %q, want %d", got, pid)
	}
}

// TestBrokerStops and TestBrokerIsKilled: losing the broker is stopping no worker.
func TestBrokerStops(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0")
	ln := b.dial("web")
	go answer(ln, "still here")
	b.stop()
	checkWithoutBroker(t, b.path, ln)
}

func TestBrokerIsKilled(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := filepath.Join(fdtest.SocketDir(t), "c")
	kill, _ := start(t, "broker", path, "web=127.0.0.1:0")
	ln, err := (&broker.Dialer{Socket: path}).Dial(context.Background(), "web")
	if err != nil {
		t.Fatal(err)
	}
	go answer(ln, "still here")
	kill()
	checkWithoutBroker(t, path, ln)
}

// checkWithoutBroker checks ln, which answers "still here", and closes it.
func checkWithoutBroker(t *testing.T, path string, ln *broker.Listener) {
	t.Helper()
	if got := ask(t, ln.Addr()); got != "still here" {
		t.Errorf("got %q", got)
	}
	if _, err := (&broker.Dialer{Socket: path}).Dial(context.Background(), "web"); !errors.Is(err, broker.ErrNoBroker) {
		t.Errorf("Dial: %v", err)
	}
	if err := ln.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
}

// TestUnbound: a holder goes on accepting after its listener was unbound.
func TestUnbound(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0")
	ln := b.dial("web")
	go answer(ln, "still here")
	if err := b.client().Unbind(context.Background(), "web"); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, ln.Addr()); got != "still here" {
		t.Errorf("got %q", got)
	}
}

func TestHTTPServer(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0")
	ln := b.dial("web")
	began, finish := make(chan struct{}), make(chan struct{})
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(began)
		<-finish
		_, _ = io.WriteString(w, "done")
	})}
	served := make(chan error)
	go func() { served <- srv.Serve(ln) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	body := make(chan string)
	go func() {
		resp, err := client.Get("http://" + ln.Addr().String())
		if err != nil {
			body <- err.Error()
			return
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		body <- string(text)
	}()
	<-began
	down := make(chan error)
	go func() { down <- srv.Shutdown(context.Background()) }()
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Errorf("Serve: %v", err)
	}
	b.waitHolders("web", 0) // while the request is still being answered
	close(finish)
	if got := <-body; got != "done" {
		t.Errorf("got %q", got)
	}
	if err := <-down; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

func TestSyscallConn(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0", "ntp=udp://127.0.0.1:0")
	pc, err := b.dialer().DialPacket(context.Background(), "ntp")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	if cookie := cookieOf(t, b.dial("web")); cookie != b.listener("web").Cookie {
		t.Errorf("Listener: got socket %d", cookie)
	}
	if cookie := cookieOf(t, pc); cookie != b.listener("ntp").Cookie {
		t.Errorf("PacketConn: got socket %d", cookie)
	}
	if !strings.HasPrefix(pc.LocalAddr().String(), "127.0.0.1:") {
		t.Errorf("got %v", pc.LocalAddr())
	}
}
