//go:build linux

package broker_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

func TestMain(m *testing.M) {
	fdtest.Main(m, map[string]func([]string) int{
		"broker": brokerProcess,
		"worker": workerProcess,
	})
}

// testBroker is a broker that runs in the test's process.
type testBroker struct {
	t      testing.TB
	path   string // of the control socket
	server *server.Server
	stop   func() // the end of the test calls it too
}

// startBroker starts a broker with listeners.
func startBroker(t testing.TB, specs ...string) *testBroker {
	t.Helper()
	return startBrokerAt(t, filepath.Join(fdtest.SocketDir(t), "c"), server.Config{}, specs...)
}

func startBrokerAt(t testing.TB, path string, cfg server.Config, specs ...string) *testBroker {
	t.Helper()
	s, err := server.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	control, err := server.ListenControl(server.ControlConfig{Path: path, Mode: 0o666})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, control.Listener) }()
	b := &testBroker{t: t, path: path, server: s}
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-served; !errors.Is(err, server.ErrClosed) {
			t.Errorf("Serve: %v", err)
		}
		if err := errors.Join(control.Close(), s.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(b.stop)
	b.bind(specs...)
	return b
}

func (b *testBroker) bind(specs ...string) {
	b.t.Helper()
	parsed := make([]spec.Spec, len(specs))
	for i, text := range specs {
		var err error
		if parsed[i], err = spec.Parse(text); err != nil {
			b.t.Fatal(err)
		}
	}
	if err := b.server.Bind(parsed...); err != nil {
		b.t.Fatal(err)
	}
}

func (b *testBroker) dialer() *broker.Dialer { return &broker.Dialer{Socket: b.path} }

func (b *testBroker) waiting() *broker.Dialer { return &broker.Dialer{Socket: b.path, Wait: true} }

// dial dials a listener; the end of the test closes it.
func (b *testBroker) dial(name string) *broker.Listener {
	b.t.Helper()
	ln, err := b.dialer().Dial(context.Background(), name)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = ln.Close() })
	return ln
}

// client returns a client; the end of the test closes it.
func (b *testBroker) client() *broker.Client {
	c := &broker.Client{Socket: b.path}
	b.t.Cleanup(func() { _ = c.Close() })
	return c
}

// get returns a duplicate of a listener's socket to look at, by a Get that accepts any
// O_NONBLOCK.
func (b *testBroker) get(name string) broker.Socket {
	b.t.Helper()
	sockets, err := b.client().Get(context.Background(), broker.GetOptions{}, name)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = sockets[0].FD.Close() })
	return sockets[0]
}

func (b *testBroker) listener(name string) protocol.Listener {
	b.t.Helper()
	for _, l := range b.server.Listeners() {
		if l.Name == name {
			return l
		}
	}
	b.t.Fatalf("no listener %q", name)
	return protocol.Listener{}
}

// waitHolders waits until a listener has n holders.
func (b *testBroker) waitHolders(name string, n int) {
	b.t.Helper()
	fdtest.Eventually(b.t, fmt.Sprintf("%s has %d holders", name, n), func() bool { return b.listener(name).Holders == n })
}

// waitWaiting waits until n clients wait for a listener, which need not be bound.
func (b *testBroker) waitWaiting(name string, n int) {
	b.t.Helper()
	c := broker.Client{Socket: b.path}
	defer c.Close()
	fdtest.Eventually(b.t, fmt.Sprintf("%d wait for %s", n, name), func() bool {
		list, err := c.List(context.Background())
		if err != nil {
			b.t.Fatal(err)
		}
		found := 0
		for _, h := range list.Holders {
			if (h.State == protocol.StateWaiting || h.State == protocol.StateStandby) && h.Names[0] == name {
				found++
			}
		}
		return found == n
	})
}

// brokerProcess is a broker in a process of its own: CONTROL SPEC...
func brokerProcess(args []string) int {
	if err := serveProcess(args[0], args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func serveProcess(path string, specs []string) error {
	s, err := server.New(server.Config{})
	if err != nil {
		return err
	}
	control, err := server.ListenControl(server.ControlConfig{Path: path})
	if err != nil {
		return err
	}
	for _, text := range specs {
		spec, err := spec.Parse(text)
		if err != nil {
			return err
		}
		if err := s.Bind(spec); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	return s.Serve(context.Background(), control.Listener)
}

// workerProcess answers each connection to a listener with its pid: CONTROL NAME.
func workerProcess(args []string) int {
	ln, err := (&broker.Dialer{Socket: args[0]}).Dial(context.Background(), args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("ready")
	answer(ln, fmt.Sprint(os.Getpid()))
	return 0
}

// answer answers each connection to ln with text, until ln is closed.
func answer(ln net.Listener, text string) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, text)
		_ = c.Close()
	}
}

// start starts a helper process and waits until it says that it is ready.
func start(t testing.TB, name string, args ...string) (kill func(), pid int) {
	t.Helper()
	cmd := fdtest.Helper(t, name, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("%s said %q: %v", name, line, err)
	}
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}, cmd.Process.Pid
}

// ask connects to a stream listener and returns the answer.
func ask(t testing.TB, addr net.Addr) string {
	t.Helper()
	return read(t, connect(t, addr))
}

func connect(t testing.TB, addr net.Addr) net.Conn {
	t.Helper()
	c, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// read returns all that comes over c, which it closes.
func read(t testing.TB, c net.Conn) string {
	t.Helper()
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	return string(b)
}

// asUser calls f on a thread that has another effective user id, which is the user that a
// broker sees. f must not start goroutines.
func asUser(t testing.TB, uid int, f func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can act as another user")
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread ends with its goroutine
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
			done <- errno
			return
		}
		f()
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
