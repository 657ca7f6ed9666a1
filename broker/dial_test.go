//go:build linux

package broker_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// streamSpecs returns a spec of each kind of listener that accepts connections.
func streamSpecs(t testing.TB) map[string]string {
	dir := fdtest.SocketDir(t)
	return map[string]string{
		"tcp":        "web=127.0.0.1:0",
		"dual stack": "web=:0",
		"unix":       "web=unix://" + filepath.Join(dir, "u"),
		"abstract":   "web=unix://@" + filepath.Base(dir),
		"unixpacket": "web=unixpacket://" + filepath.Join(dir, "p"),
	}
}

func TestDialAccepts(t *testing.T) {
	for name, spec := range streamSpecs(t) {
		t.Run(name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			b := startBroker(t, spec)
			ln := b.dial("web")
			if ln.Name() != "web" || ln.Grant() == 0 {
				t.Errorf("got name %q and grant %d", ln.Name(), ln.Grant())
			}
			got := make(chan string)
			go func() {
				c, err := ln.Accept()
				if err != nil {
					t.Error(err)
					close(got)
					return
				}
				defer c.Close()
				buf := make([]byte, 16)
				n, err := c.Read(buf)
				if err != nil {
					t.Error(err)
				}
				got <- string(buf[:n])
			}()
			c := connect(t, ln.Addr())
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			if s := <-got; s != "hello" {
				t.Errorf("got %q", s)
			}
		})
	}
}

func TestDialDefaultSocket(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0", "ntp=udp://127.0.0.1:0")
	t.Setenv("FDBROKER_SOCKET", b.path)
	ln, err := broker.Dial("web")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	pc, err := broker.DialPacket("ntp")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
}

func TestDialPacketReceives(t *testing.T) {
	dir := fdtest.SocketDir(t)
	for name, spec := range map[string]string{
		"udp":      "log=udp://127.0.0.1:0",
		"unixgram": "log=unixgram://" + filepath.Join(dir, "g"),
	} {
		t.Run(name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			b := startBroker(t, spec)
			pc, err := b.dialer().DialPacket(context.Background(), "log")
			if err != nil {
				t.Fatal(err)
			}
			if pc.Name() != "log" || pc.Grant() == 0 || pc.NetConn() == nil {
				t.Errorf("got name %q, grant %d, conn %v", pc.Name(), pc.Grant(), pc.NetConn())
			}
			c := connect(t, pc.LocalAddr())
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 16)
			n, _, err := pc.ReadFrom(buf)
			if err != nil || string(buf[:n]) != "hello" {
				t.Errorf("got %q, %v", buf[:n], err)
			}
			ended := make(chan error)
			go func() {
				_, _, err := pc.ReadFrom(buf)
				ended <- err
			}()
			if err := pc.Close(); err != nil {
				t.Error(err)
			}
			if err := <-ended; !errors.Is(err, net.ErrClosed) {
				t.Errorf("ReadFrom after Close: %v", err)
			}
			b.waitHolders("log", 0)
			if err := pc.Close(); err != nil {
				t.Errorf("second Close: %v", err)
			}
		})
	}
}

func TestDialAll(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "a=127.0.0.1:0", "b=127.0.0.1:0", "c=127.0.0.1:0")
	all, err := b.dialer().DialAll(context.Background(), "c", "a", "b")
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"c", "a", "b"} {
		ln := all[i]
		if got, want := ln.Addr().String(), b.listener(name).Address; ln.Name() != name || got != want {
			t.Errorf("listener %d is %q at %s, want %q at %s", i, ln.Name(), got, name, want)
		}
		if ln.Grant() != all[0].Grant() {
			t.Errorf("listener %d has grant %d, the first has %d", i, ln.Grant(), all[0].Grant())
		}
	}
	// The grant lasts until the last listener is closed, in any order.
	for i, order := range []int{1, 0, 2} {
		for _, name := range []string{"a", "b", "c"} {
			if got := b.listener(name).Holders; got != 1 {
				t.Errorf("after %d Closes %q has %d holders, want 1", i, name, got)
			}
		}
		if err := all[order].Close(); err != nil {
			t.Error(err)
		}
		_ = all[order].Close() // counts once
	}
	for _, name := range []string{"a", "b", "c"} {
		b.waitHolders(name, 0)
	}
}

func TestDialPackets(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "a=udp://127.0.0.1:0", "b=udp://127.0.0.1:0")
	all, err := b.dialer().DialPackets(context.Background(), "b", "a")
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 2 || all[0].Name() != "b" || all[1].Name() != "a" {
		t.Errorf("got %v", all)
	}
	for _, pc := range all {
		if err := pc.Close(); err != nil {
			t.Error(err)
		}
	}
	b.waitHolders("a", 0)
}

// TestDialOtherKind: Dial of a datagram socket, and DialPacket of a stream socket, return an
// error that says so, and keep no grant.
func TestDialOtherKind(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0", "adm=127.0.0.1:0", "tcp=127.0.0.1:0", "ntp=udp://127.0.0.1:0")
	d, ctx := b.dialer(), context.Background()
	for _, names := range [][]string{{"ntp"}, {"web", "ntp"}, {"ntp", "web"}, {"web", "ntp", "adm"}} {
		all, err := d.DialAll(ctx, names...)
		if err == nil || all != nil || !strings.Contains(err.Error(), "DialPacket") || !strings.Contains(err.Error(), "ntp") {
			t.Errorf("DialAll(%q): got %v, %v", names, all, err)
		}
		packets, err := d.DialPackets(ctx, slices.Concat(names, []string{"tcp"})...)
		if err == nil || packets != nil || !strings.Contains(err.Error(), "use Dial") {
			t.Errorf("DialPackets(%q): got %v, %v", names, packets, err)
		}
	}
	for _, name := range []string{"web", "adm", "ntp"} {
		b.waitHolders(name, 0)
	}
}

func TestDialNoNames(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t)
	if _, err := b.dialer().DialAll(context.Background()); err == nil {
		t.Error("no error")
	}
	if _, err := b.waiting().DialPackets(context.Background()); err == nil {
		t.Error("no error with Wait")
	}
}

// TestDialConcurrently uses one Dialer from many goroutines.
func TestDialConcurrently(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0")
	d := b.dialer()
	errs := make(chan error)
	for range 20 {
		go func() {
			ln, err := d.Dial(context.Background(), "web")
			if err == nil {
				err = ln.Close()
			}
			errs <- err
		}()
	}
	for range 20 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	b.waitHolders("web", 0)
}
