package supervisor_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker/supervisor"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { fdtest.Main(m, map[string]func([]string) int{"worker": worker}) }

// worker is the process that the tests keep alive. It is connected to the hub for as long as
// it lives. Its first argument is the hub's directory, where the file "mode" has words that
// say how it behaves: notify, deaf, bad, short, and asked, which is notify after hub.tell.
func worker(args []string) int {
	text, err := os.ReadFile(args[0] + "/mode")
	if err != nil {
		return 99
	}
	mode := string(text)
	if strings.Contains(mode, "bad") {
		return 3
	}
	if strings.Contains(mode, "deaf") {
		signal.Ignore(syscall.SIGTERM)
	}
	c, err := net.Dial("unix", args[0]+"/hub")
	if err != nil {
		return 98
	}
	fmt.Fprintln(c, os.Getpid(), os.Getenv(protocol.GenerationEnv), os.Getenv("NOTIFY_SOCKET") != "")
	_, _ = c.Read(make([]byte, 1)) // until the hub knows it
	if strings.Contains(mode, "asked") {
		_, _ = c.Read(make([]byte, 1))
	}
	if strings.Contains(mode, "notify") || strings.Contains(mode, "asked") {
		if err := tell("STATUS=x\nREADY=1"); err != nil {
			return 97
		}
	}
	if strings.Contains(mode, "short") {
		return 4
	}
	_, _ = c.Read(make([]byte, 1)) // until hub.tell makes it crash
	return 5
}

func tell(state string) error {
	c, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte(state))
	return err
}

// running is a supervisor that runs.
type running struct {
	t       *testing.T
	signals chan os.Signal
	cancel  context.CancelFunc
	done    chan struct{}
	err     error

	mu    sync.Mutex
	state []string // reported to the manager
	lines []string // messages of the log
}

// keep starts a supervisor of workers that connect to the hub.
func (h *hub) keep(c supervisor.Config) *running {
	h.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		h.t.Fatal(err)
	}
	c.Command = supervisor.Command{Path: exe, Argv: []string{"worker", h.dir}, Env: append(os.Environ(), "FDTEST_HELPER=worker", "GORACE=atexit_sleep_ms=0")}
	return run(h.t, c)
}

func run(t *testing.T, c supervisor.Config) *running {
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{t: t, signals: make(chan os.Signal), cancel: cancel, done: make(chan struct{})}
	c.Tell = func(states ...string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.state = append(r.state, states...)
	}
	c.Logger = c.Logger.Output(io.Discard).Hook(zerolog.HookFunc(func(_ *zerolog.Event, _ zerolog.Level, message string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.lines = append(r.lines, message)
	}))
	go func() {
		defer close(r.done)
		r.err = supervisor.Run(ctx, c, r.signals)
	}()
	t.Cleanup(func() { r.stop() })
	return r
}

func (r *running) signal(sig unix.Signal) {
	r.t.Helper()
	select {
	case r.signals <- sig:
	case <-r.done:
		r.t.Fatal("it has ended: ", r.err)
	case <-time.After(fdtest.Long(20 * time.Second)):
		r.t.Fatal("it does not take signals")
	}
}

// stop stops it, and returns the error of Run.
func (r *running) stop() error {
	r.cancel()
	return r.wait()
}

func (r *running) wait() error {
	r.t.Helper()
	select {
	case <-r.done:
	case <-time.After(fdtest.Long(20 * time.Second)):
		r.t.Fatal("it does not end")
	}
	return r.err
}

func (r *running) reported(state string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, s := range r.state {
		if strings.Contains(s, state) {
			n++
		}
	}
	return n
}

// logged returns how many messages of the log begin with text.
func (r *running) logged(text string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, line := range r.lines {
		if strings.HasPrefix(line, text) {
			n++
		}
	}
	return n
}

func (r *running) waitFor(state string) {
	r.t.Helper()
	fdtest.Eventually(r.t, "the manager gets "+state, func() bool { return r.reported(state) > 0 })
}
