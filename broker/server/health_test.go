package server_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	library "github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// harms are the changes that the helper "rogue" can make to a socket.
var harms = map[string]func(fd int) error{
	"shut": func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RDWR) },
	// forever shuts it down whenever it listens.
	"forever": func(fd int) error {
		for {
			if err := unix.Shutdown(fd, unix.SHUT_RD); err != nil && err != unix.ENOTCONN {
				return err
			}
		}
	},
	"listen":    func(fd int) error { return unix.Listen(fd, 1) },
	"reuseport": func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) },
	"noreuse":   func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 0) },
	"block":     func(fd int) error { return unix.SetNonblock(fd, false) },
	"connect": func(fd int) error {
		sa, err := unix.Getsockname(fd)
		if err == nil {
			err = unix.Connect(fd, sa)
		}
		return err
	},
	"unlink": func(fd int) error {
		sa, err := unix.Getsockname(fd)
		if err == nil {
			err = os.Remove(sa.(*unix.SockaddrUnix).Name)
		}
		return err
	},
}

// rogueHelper gets the listener args[1] of the broker at args[0], prints "got", and
// changes it as each line of its standard input says.
func rogueHelper(args []string) int {
	client := library.Client{Socket: args[0]}
	sockets, err := client.Get(context.Background(), library.GetOptions{}, args[1])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("got")
	for {
		line, err := readLine(os.Stdin)
		if err != nil {
			return 0
		}
		_ = sockets[0].FD.Control(func(fd uintptr) { err = harms[line](int(fd)) })
		if err != nil && err != unix.ENOTCONN {
			fmt.Println(err)
			return 1
		}
		fmt.Println("done")
	}
}

// serveHelper answers at the listener args[1] of the broker at args[0] with its pid and
// what the client sends. It prints "got" once it has the listener.
func serveHelper(args []string) int {
	d := library.Dialer{Socket: args[0]}
	ln, err := d.Dial(context.Background(), args[1])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("got")
	for {
		c, err := ln.Accept()
		if err != nil {
			fmt.Println(err)
			return 1
		}
		go func() {
			defer c.Close()
			b := make([]byte, 16)
			if n, err := c.Read(b); err == nil {
				_, _ = c.Write(b[:n])
			}
		}()
	}
}

// helper starts a helper that gets name, and waits until it has.
func (b *broker) helper(t *testing.T, kind, name string) *worker {
	t.Helper()
	w := startWorker(t, fdtest.Helper(t, kind, b.path, name))
	w.says("got")
	return w
}

func (w *worker) says(want string) {
	w.t.Helper()
	_ = w.out.SetReadDeadline(time.Now().Add(patience))
	if line, err := readLine(w.out); err != nil || line != want {
		w.t.Fatalf("the worker says %q, want %q: %v", line, want, err)
	}
}

func (w *worker) harm(what string) {
	w.t.Helper()
	w.tell(what)
	w.says("done")
}

// load asks at an address again and again.
type load struct {
	stop   func()
	mu     sync.Mutex
	failed []failure
	served int
}

type failure struct {
	at  time.Time
	err error
}

func startLoad(t *testing.T, network, address string) *load {
	l := new(load)
	quit := make(chan struct{})
	var wg sync.WaitGroup
	l.stop = sync.OnceFunc(func() {
		close(quit)
		wg.Wait()
	})
	t.Cleanup(l.stop)
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-quit:
					return
				case <-time.After(time.Millisecond):
				}
				err := echo(network, address)
				l.mu.Lock()
				if err != nil {
					l.failed = append(l.failed, failure{time.Now(), err})
				} else {
					l.served++
				}
				l.mu.Unlock()
			}
		})
	}
	return l
}

// echo has a word sent back.
func echo(network, address string) error {
	c, err := net.DialTimeout(network, address, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, "word"); err != nil {
		return err
	}
	b := make([]byte, 4)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "word" {
		return fmt.Errorf("answered %q: %w", b, err)
	}
	return nil
}

// more waits until n more were served.
func (l *load) more(t *testing.T, n int) {
	t.Helper()
	count := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.served
	}
	before := count()
	fdtest.Eventually(t, "more are served", func() bool { return count() >= before+n })
}

// failedSince returns the errors since then.
func (l *load) failedSince(since time.Time) (all []error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.failed {
		if f.at.After(since) {
			all = append(all, f.err)
		}
	}
	return all
}

// repaired waits until the broker has repaired the socket of name n times.
func (b *broker) repaired(t *testing.T, name string, n int) protocol.Listener {
	t.Helper()
	fdtest.Eventually(t, fmt.Sprintf("%s was repaired %d times", name, n), func() bool {
		for _, l := range b.Listeners() {
			if l.Name == name {
				return l.Healed >= n
			}
		}
		return false
	})
	return b.listener(t, name)
}

// TestRepairUnderLoad: a change that a worker makes to a socket is undone within 100 ms, and the other workers go on.
func TestRepairUnderLoad(t *testing.T) {
	dir := fdtest.SocketDir(t)
	for _, c := range []struct {
		spec string
		harm []string // those in which a client may fail have a "!"
	}{
		{"web=127.0.0.1:0", []string{"shut!", "listen", "reuseport", "noreuse"}},
		{"web=[::1]:0", []string{"shut!", "listen", "reuseport", "noreuse"}},
		{"web=:0", []string{"shut!", "listen"}},
		{"web=unix://" + dir + "/s", []string{"listen!", "unlink!"}},
		{"web=unix://@fdbroker-test-health-load", []string{"listen!"}},
	} {
		t.Run(c.spec, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			b := start(t, server.Config{}, c.spec)
			before := b.listener(t, "web")
			for range 2 {
				b.helper(t, "serve", "web")
			}
			l := startLoad(t, before.Network, before.Address)
			l.more(t, 100)
			for i, harm := range c.harm {
				rogue := b.helper(t, "rogue", "web") // gets the socket that is bound now
				what, hurts := strings.CutSuffix(harm, "!")
				began := time.Now()
				rogue.harm(what)
				after := b.repaired(t, "web", i+1)
				if took := time.Since(began); took > 100*time.Millisecond+slack {
					t.Errorf("%s: repaired after %v", harm, took)
				}
				l.more(t, 100)
				repaired := time.Now()
				l.more(t, 100)
				if errs := l.failedSince(repaired); len(errs) > 0 {
					t.Errorf("%s: %d failed once it was repaired, first %v", harm, len(errs), errs[0])
				}
				if errs := l.failedSince(began); len(errs) > 0 {
					t.Logf("%s: %d failed, first %v", harm, len(errs), errs[0])
					if !hurts {
						t.Errorf("%s: that needs no victims", harm)
					}
				}
				if after.Cookie != before.Cookie {
					t.Errorf("%s: cookie %d, was %d", harm, after.Cookie, before.Cookie)
				}
				before = after
				rogue.kill()
			}
			n := len(b.logs.lines("repaired the socket", `"level":"warn"`, `"name":"web"`, `"holders":[`)) +
				len(b.logs.lines("restored the queue limit", `"level":"debug"`, `"name":"web"`, `"holders":[`))
			if n != len(c.harm) || b.listener(t, "web").HealedLimits != 1 {
				t.Errorf("%d incidents logged: %s", n, b.logs.lines(`"holders":[`))
			}
		})
	}
}

// slack is the time that a busy machine may take in addition.
var slack = fdtest.Long(400 * time.Millisecond)

// TestRepairConnectedSocket: a worker connects a datagram socket, which filters out the packets of all
// other peers.
func TestRepairConnectedSocket(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "dns=udp://127.0.0.1:0")
	before := b.listener(t, "dns")
	rogue := b.helper(t, "rogue", "dns")
	rogue.harm("connect")
	if l := b.repaired(t, "dns", 1); l.Cookie != before.Cookie {
		t.Errorf("cookie %d, was %d", l.Cookie, before.Cookie)
	}
	b.receives(t, "dns")
}

// receives checks that a packet to the address of name arrives at its socket.
func (b *broker) receives(t *testing.T, name string) {
	t.Helper()
	c, err := net.Dial(b.listener(t, name).Network, b.listener(t, name).Address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fdtest.Eventually(t, "it arrives", func() bool {
		_, _ = io.WriteString(c, "word")
		return *b.listener(t, name).Queue > 0
	})
}

// TestRepairWithoutHolders: the kernel reports changes by a process that is not a holder any more, or never
// was.
func TestRepairWithoutHolders(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := fdtest.SocketDir(t) + "/s"
	b := start(t, server.Config{}, "app=unix://"+path, "web=127.0.0.1:0")
	cookie := b.listener(t, "app").Cookie
	fdtest.Eventually(t, "the path is watched", func() bool {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return b.listener(t, "app").Healed > 0
	})
	fdtest.Eventually(t, "the path is back", func() bool {
		_, err := os.Stat(path)
		return err == nil
	})
	if now := b.listener(t, "app").Cookie; now != cookie {
		t.Errorf("cookie %d, was %d", now, cookie)
	}
	c := b.client(t)
	c.send(getMore(protocol.GetParameters{Names: []string{"web"}}))
	_, fds := c.got()
	c.close()
	b.held(t, "web", 0, 0)
	_ = fds[0].Control(func(fd uintptr) { _ = harms["shut"](int(fd)) })
	b.repaired(t, "web", 1)
}

// TestRepairAgain: if a worker shuts a socket down again and again, it is repaired again and again, at a
// bounded cost, and other sockets are repaired too.
func TestRepairAgain(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0", "other=127.0.0.1:0")
	rogue := b.helper(t, "rogue", "web")
	rogue.tell("forever")
	b.repaired(t, "web", 20)
	other := b.helper(t, "rogue", "other")
	began := time.Now()
	other.harm("shut")
	b.repaired(t, "other", 1)
	if took := time.Since(began); took > 100*time.Millisecond+slack {
		t.Errorf("repaired after %v", took)
	}
	rogue.kill()
	l := b.repaired(t, "web", 20)
	if n := len(b.logs.lines(`"holders":[`, `"name":"web"`)); n > 30 {
		t.Errorf("%d of %d incidents logged", n, l.Healed)
	}
	fdtest.Eventually(t, "it listens", func() bool { return *b.listener(t, "web").Limit > 0 })
}

// TestChangedModeIsReported: a changed O_NONBLOCK is reported once, and left as it is.
func TestChangedModeIsReported(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0")
	rogue := b.helper(t, "rogue", "web")
	rogue.harm("block")
	flips := func() int { return len(b.logs.lines("O_NONBLOCK", `"name":"web"`)) }
	fdtest.Eventually(t, "it is told", func() bool { return flips() > 0 })
	rogue.harm("listen")
	b.repaired(t, "web", 1) // so the monitor has looked again
	if l := b.listener(t, "web"); !l.Flipped || !l.Blocking {
		t.Errorf("got %+v", l)
	}
	rogue.kill()
	b.held(t, "web", 0, 0)
	if l := b.listener(t, "web"); l.Flipped || flips() != 1 {
		t.Errorf("told %d times, %+v", flips(), l)
	}
}

// TestStolenPort: while another process has the port, List and the log say which.
func TestStolenPort(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0")
	address := b.listener(t, "web").Address
	rogue := b.helper(t, "rogue", "web")
	var thief net.Listener
	fdtest.Eventually(t, "the port is stolen", func() bool {
		rogue.harm("shut")
		var err error
		thief, err = net.Listen("tcp", address)
		return err == nil
	})
	holder := fmt.Sprintf("pid %d ", os.Getpid())
	fdtest.Eventually(t, "List says which process has it", func() bool { return strings.Contains(b.listener(t, "web").Ailment, holder) })
	if len(b.logs.lines("cannot repair", holder)) == 0 {
		t.Error("the log does not say which process has it")
	}
	before := b.listener(t, "web").Healed
	_ = thief.Close()
	if l := b.repaired(t, "web", before+1); l.Ailment != "" || *l.Limit == 0 {
		t.Errorf("got %+v", l)
	}
}

// TestBeyondRepair: the kernel never undoes the shutdown of a Unix or UDP socket. The broker reports it
// once and goes on with the same socket. The remedy in the report helps.
func TestBeyondRepair(t *testing.T) {
	path := fdtest.SocketDir(t) + "/s"
	for _, spec := range []string{"app=unix://" + path, "app=unix://@fdbroker-test-health-app", "app=udp://127.0.0.1:0"} {
		t.Run(spec, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			b := start(t, server.Config{}, spec, "web=127.0.0.1:0")
			before := b.listener(t, "app")
			b.helper(t, "serve", "web")
			rogue, victim := b.helper(t, "rogue", "app"), b.helper(t, "rogue", "app")
			rogue.harm("shut")
			const text = "the socket of app was shut down by a worker and cannot be repaired: "
			fdtest.Eventually(t, "List says so", func() bool { return strings.HasPrefix(b.listener(t, "app").Ailment, text) })
			b.helper(t, "rogue", "web").harm("shut")
			b.repaired(t, "web", 1) // so the monitor has looked again
			victim.harm("shut")
			rogue.kill()
			victim.kill()
			b.held(t, "app", 0, 0)
			if l := b.listener(t, "app"); l.Cookie != before.Cookie || l.Healed != 0 || !strings.Contains(l.Ailment, "fdclient unbind app") {
				t.Errorf("got %+v", l)
			}
			if lines := b.logs.lines("cannot repair the socket", `"name":"app"`, `"level":"warn"`, text); len(lines) != 1 {
				t.Errorf("reported %d times: %s", len(lines), lines)
			}
			if err := b.Unbind("app"); err != nil {
				t.Fatal(err)
			}
			b.bind(t, spec)
			if l := b.listener(t, "app"); l.Ailment != "" || l.Cookie == before.Cookie {
				t.Errorf("got %+v", l)
			}
		})
	}
}

// TestBeyondRepairPath: a path whose second link is removed, too, cannot come back.
func TestBeyondRepairPath(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := fdtest.SocketDir(t) + "/s"
	b := start(t, server.Config{}, "app=unix://"+path)
	b.helper(t, "rogue", "app")
	fdtest.Eventually(t, "both links are gone", func() bool {
		_ = os.Remove(filepath.Dir(path) + "/.s.fdbroker")
		_ = os.Remove(path)
		return strings.HasPrefix(b.listener(t, "app").Ailment, "the path of app was removed and cannot be repaired: fdclient reload --rebind; ")
	})
}

// TestBacklogOfReload: a backlog that Reload changes is no fault.
func TestBacklogOfReload(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{})
	b.reloaded(t, server.Changes{Bound: []string{"web"}}, "web=127.0.0.1:0,backlog=10")
	rogue := b.helper(t, "rogue", "web")
	for i := range 200 {
		if _, err := b.reload(t, fmt.Sprintf("web=127.0.0.1:0,backlog=%d", 11+i)); err != nil {
			t.Fatal(err)
		}
	}
	if l := b.listener(t, "web"); l.Healed != 0 || *l.Limit != 210 {
		t.Errorf("got %+v", l)
	}
	for i := range 50 {
		rogue.tell("shut")
		if _, err := b.reload(t, fmt.Sprintf("web=127.0.0.1:0,backlog=%d", 11+i)); err != nil {
			t.Fatal(err)
		}
		rogue.says("done")
	}
	fdtest.Eventually(t, "it listens", func() bool { return *b.listener(t, "web").Limit == 60 })
}

// TestNotRepaired: the broker does not touch a socket that was unbound, nor a descriptor that was put with
// any.
func TestNotRepaired(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := start(t, server.Config{}, "web=127.0.0.1:0", "stays=127.0.0.1:0")
	rogue, other := b.helper(t, "rogue", "web"), b.helper(t, "rogue", "stays")
	address := b.listener(t, "web").Address
	if err := b.Unbind("web"); err != nil {
		t.Fatal(err)
	}
	rogue.harm("shut")
	other.harm("shut")
	b.repaired(t, "stays", 1)
	if c, err := net.Dial("tcp", address); err == nil {
		_ = c.Close()
		t.Error("what was unbound listens again")
	}
}
