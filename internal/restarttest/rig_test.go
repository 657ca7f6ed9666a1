package restarttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

const module = "github.com/fdbroker/fdbroker"

func TestMain(m *testing.M) {
	fdtest.Main(m, map[string]func([]string) int{"worker": workerHelper, "refused": refusedHelper})
}

// times returns how often to repeat something that a short run does n times.
func times(n int) int {
	if factor, err := strconv.Atoi(os.Getenv("FDTEST_RESTARTS")); err == nil {
		return n * factor
	}
	return n
}

// workerHelper serves a listener with its pid, through restarts of the broker.
func workerHelper(args []string) int {
	ln, err := broker.Dial(args[0])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for {
		conn, err := ln.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, "worker:", err)
			return 1
		}
		fmt.Fprintln(conn, os.Getpid())
		_ = conn.Close()
	}
}

// rig is a broker of the real program, with a store of its own.
type rig struct {
	t       testing.TB
	program string // the path it was started from
	socket  string
	client  broker.Client
}

// start starts a broker. The test's end stops it, or the one that has replaced it by then.
func start(t testing.TB, args ...string) *rig {
	t.Helper()
	return startAs(t, func(*exec.Cmd) {}, args...)
}

// startAs is start with something done to the command first.
func startAs(t testing.TB, prepare func(*exec.Cmd), args ...string) *rig {
	t.Helper()
	dir := fdtest.SocketDir(t)
	build(t, dir)
	return startIn(t, dir, prepare, args...)
}

// build builds the programs of this tree.
func build(t testing.TB, dir string) {
	t.Helper()
	fdtest.Build(t, dir, module+"/cmd/fdbroker", module+"/cmd/fdclient")
}

// startIn is startAs with the programs that are in dir.
func startIn(t testing.TB, dir string, prepare func(*exec.Cmd), args ...string) *rig {
	t.Helper()
	r := &rig{t: t, program: dir + "/fdbroker", socket: dir + "/c"}
	t.Setenv("FDBROKER_SOCKET", r.socket)
	r.client.Socket = r.socket
	cmd := exec.Command(r.program, append([]string{"--log-level", "warn", "--log-format", "json"}, args...)...)
	// A file of its own and no pipe, because the next keeper goes on writing to it.
	log, err := os.Create(dir + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	prepare(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = r.client.Close()
		if pid, err := r.pid(); err == nil {
			if command, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", parentOf(pid))); err == nil && string(command) == "fdbroker\n" {
				pid = parentOf(pid)
			}
			_ = syscall.Kill(pid, syscall.SIGTERM)
		} else {
			_ = cmd.Process.Signal(syscall.SIGTERM)
		}
		fdtest.Eventually(t, "the broker has gone", func() bool {
			_, err := os.Stat(r.socket + ".lock")
			return os.IsNotExist(err)
		})
		<-ended // the first keeper, at least
		if text, err := os.ReadFile(dir + "/log"); err == nil && t.Failed() {
			t.Logf("the broker said:\n%s", text)
		}
	})
	r.answers(0)
	return r
}

// said returns all that the broker has logged.
func (r *rig) said() string {
	text, err := os.ReadFile(filepath.Dir(r.program) + "/log")
	if err != nil {
		r.t.Fatal(err)
	}
	return string(text)
}

// pid returns the broker's.
func (r *rig) pid() (int, error) {
	text, err := os.ReadFile(r.socket + ".lock")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// answers waits until a broker answers whose pid is not old, and returns its pid.
func (r *rig) answers(old int) (pid int) {
	r.t.Helper()
	fdtest.Eventually(r.t, "a broker answers", func() bool {
		var err error
		if pid, err = r.pid(); err != nil || pid == old {
			return false
		}
		_, err = r.client.Info(context.Background())
		return err == nil
	})
	return pid
}

func parentOf(pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	parent, _ := strconv.Atoi(fields[1])
	return parent
}

func (r *rig) list() protocol.ListReply {
	r.t.Helper()
	var list protocol.ListReply
	fdtest.Eventually(r.t, "the broker lists", func() bool {
		var err error
		list, err = r.client.List(context.Background())
		return err == nil
	})
	return list
}

// cookies returns which sockets the listeners have.
func (r *rig) cookies() map[string]uint64 {
	r.t.Helper()
	cookies := make(map[string]uint64)
	for _, l := range r.list().Listeners {
		cookies[l.Name] = l.Cookie
	}
	return cookies
}

// worker starts one that serves a listener.
func (r *rig) worker(name string) *exec.Cmd {
	r.t.Helper()
	cmd := fdtest.Helper(r.t, "worker", name)
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	return cmd
}

// load is a number of clients that connect to a listener, and others that ask the broker for it.
type load struct {
	t                  testing.TB
	answered, gets     atomic.Int64
	failed, failedGets atomic.Int64
	firstFailure       atomic.Pointer[error]
	done               chan struct{}
	running            sync.WaitGroup
}

func (r *rig) load(address string) *load {
	l := &load{t: r.t, done: make(chan struct{})}
	for range 4 {
		l.running.Go(func() {
			for l.goesOn() {
				if err := exchange(address); err != nil {
					l.failed.Add(1)
					l.firstFailure.CompareAndSwap(nil, &err)
				} else {
					l.answered.Add(1)
				}
			}
		})
	}
	for range 2 {
		l.running.Go(func() {
			for l.goesOn() {
				c := broker.Client{Socket: r.socket}
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				sockets, err := c.Get(ctx, broker.GetOptions{Wait: true}, "web")
				cancel()
				for _, s := range sockets {
					_ = s.FD.Close()
				}
				_ = c.Close()
				if err != nil {
					l.failedGets.Add(1)
					l.firstFailure.CompareAndSwap(nil, &err)
				} else {
					l.gets.Add(1)
				}
			}
		})
	}
	return l
}

func (l *load) goesOn() bool {
	select {
	case <-l.done:
		return false
	default:
		return true
	}
}

func exchange(address string) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	text, err := io.ReadAll(conn)
	if err == nil && len(text) == 0 {
		err = errors.New("an empty answer")
	}
	return err
}

// lives is longer than a broker must have run to be started again at once.
const lives = 250 * time.Millisecond

// more waits until n more connections were answered and some more Gets, and the broker
// has lived for a while.
func (l *load) more(n int64) {
	l.t.Helper()
	answered, gets, then := l.answered.Load()+n, l.gets.Load()+n/4, time.Now().Add(lives)
	fdtest.Eventually(l.t, "the load goes on", func() bool {
		return l.answered.Load() >= answered && l.gets.Load() >= gets && time.Now().After(then)
	})
}

// end stops the load, and checks that nothing has failed.
func (l *load) end() {
	l.t.Helper()
	close(l.done)
	l.running.Wait()
	l.t.Logf("%d connections and %d gets", l.answered.Load(), l.gets.Load())
	if n, g := l.failed.Load(), l.failedGets.Load(); n+g > 0 {
		l.t.Errorf("%d connections and %d gets failed, the first one: %v", n, g, *l.firstFailure.Load())
	}
}

// asks makes one Get, and reports whether it was answered.
func asks(socket string) bool {
	c := broker.Client{Socket: socket}
	defer c.Close()
	sockets, err := c.Get(context.Background(), broker.GetOptions{}, "n0")
	for _, s := range sockets {
		_ = s.FD.Close()
	}
	return err == nil
}
