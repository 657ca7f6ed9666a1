package keeper_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker/keeper"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/scmrights"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

const storeEnv = "KEEPER_TEST_STORE"

func TestMain(m *testing.M) {
	fdtest.Main(m, map[string]func([]string) int{"broker": brokerHelper})
}

// brokerHelper does what its words say. "/" separates the lives of a broker that is started
// again; a file counts them.
func brokerHelper(args []string) int {
	lives := strings.Split(strings.Join(args[1:], " "), " / ")
	done, _ := os.ReadFile(args[0])
	if len(done) >= len(lives) {
		return 99
	}
	if err := os.WriteFile(args[0], append(done, '.'), 0o600); err != nil {
		return 98
	}
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	if n, _, ok := strings.Cut(os.Getenv(storeEnv), ":"); !ok || n != strconv.Itoa(2+len(names)) || names[len(names)-1] != keeper.StoreName {
		return 97
	}
	store := 2 + len(names)
	tell := func(text string, fds ...int) {
		if err := unix.Sendmsg(store, []byte(text), unix.UnixRights(fds...), nil, 0); err != nil {
			panic(err)
		}
	}
	for word := range strings.FieldsSeq(lives[len(done)]) {
		what, value, _ := strings.Cut(word, "=")
		n, _ := strconv.Atoi(value)
		switch what {
		case "ready":
			tell("READY=1\nSTATUS=life " + strconv.Itoa(len(done)))
		case "reloading":
			tell("RELOADING=1")
		case "until": // this pipe has a writer
			f, err := os.Open(value)
			if err != nil {
				return 94
			}
			_ = f.Close()
		case "stopping":
			tell("STOPPING=1")
		case "has": // exactly these names
			if strings.Join(names, ",") != value+","+keeper.StoreName && value+strings.Join(names, ",") != keeper.StoreName {
				tell("STATUS=" + strings.Join(names, ","))
				return 96
			}
		case "store":
			r, w, err := os.Pipe()
			if err != nil {
				return 95
			}
			tell("FDSTORE=1\nFDNAME="+value+"\nFDPOLL=0", int(r.Fd()))
			_ = w.Close()
			_ = r.Close()
		case "forget":
			tell("FDSTOREREMOVE=1\nFDNAME=" + value)
		case "nonsense":
			tell("FDSTORE=1\nFDNAME=a:b", 0)
			tell("FDSTORE=1\nFDNAME=x")
			tell("FDSTORE=1", 0)
			tell("hello", 0)
		case "wait":
			waitForSignal()
		case "signal":
			_ = unix.Kill(os.Getpid(), unix.Signal(n))
			waitForSignal()
		case "exit":
			return n
		}
	}
	return 0
}

// waitForSignal waits for the signal that ends this process. "select {}" would not do: without cgo the runtime takes
// a process in which nothing else happens for one that hangs.
func waitForSignal() {
	for {
		time.Sleep(time.Hour)
	}
}

// run runs a keeper whose broker has these lives.
func run(t *testing.T, signals chan os.Signal, held []keeper.Held, lives string) (status int, relayed []string, log string) {
	t.Helper()
	count := filepath.Join(t.TempDir(), "lives")
	cmd := fdtest.Helper(t, "broker", append([]string{count}, strings.Fields(lives)...)...)
	var b bytes.Buffer
	status = keeper.Run(keeper.Config{
		Program: cmd.Path, Args: cmd.Args, Env: cmd.Env, StoreEnv: storeEnv, Held: held, Signals: signals,
		Relay: func(text string) error {
			relayed = append(relayed, text)
			if signals != nil && strings.HasPrefix(text, "READY=1\nSTATUS=life 1") {
				signals <- syscall.SIGTERM
			}
			return nil
		},
		Logger: zerolog.New(&b),
	})
	return status, relayed, b.String()
}

func TestLives(t *testing.T) {
	for _, c := range []struct {
		name    string
		lives   string
		status  int
		relayed []string
		log     string // part of it; "": nothing is logged
	}{
		{"fails at once", "exit=3", 3, nil, ""},
		{"killed at once", "signal=9", 128 + 9, nil, ""},
		{"killed before it is ready, with something stored", "store=a signal=9 / has=a ready exit=0", 0, []string{"READY=1\nSTATUS=life 1"}, "before it was ready"},
		{"fails before it is ready, with something stored", "store=a exit=3", 3, nil, ""},
		{"ends by itself", "ready exit=0", 0, []string{"READY=1\nSTATUS=life 0"}, ""},
		{"ends when it is started again", "ready exit=7 / exit=0", 0, []string{"READY=1\nSTATUS=life 0"}, "exit status 7"},
		{"fails before it is ready again", "ready signal=9 / exit=4 / ready exit=0", 0, []string{"READY=1\nSTATUS=life 0", "READY=1\nSTATUS=life 2"}, "before it was ready"},
		{"ends in place of one that goes on", "ready reloading exit=0 / ready exit=0", 0, []string{"READY=1\nSTATUS=life 0", "RELOADING=1", "READY=1\nSTATUS=life 1"}, "before it was ready"},
		{"is stopped while it restarts", "ready reloading stopping exit=0", 0, []string{"READY=1\nSTATUS=life 0", "RELOADING=1", "STOPPING=1"}, ""},
		{"keeps", "store=a store=b store=@c forget=b ready exit=1 / has=a,@c ready exit=0", 0, []string{"READY=1\nSTATUS=life 0", "READY=1\nSTATUS=life 1"}, "exit status 1"},
		{"keeps what came just before the end", "ready store=a store=b signal=9 / has=a,b exit=0", 0, []string{"READY=1\nSTATUS=life 0"}, "signal 9"},
		{"one of a name", "store=a store=b store=a ready exit=1 / has=b,a exit=0", 0, []string{"READY=1\nSTATUS=life 0"}, "exit status 1"},
		{"nonsense", "store=a nonsense ready exit=1 / has=a exit=0", 0, []string{"hello", "READY=1\nSTATUS=life 0"}, "exit status 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fdtest.CheckLeaks(t)
			status, relayed, log := run(t, nil, nil, c.lives)
			if status != c.status || fmt.Sprint(relayed) != fmt.Sprint(c.relayed) {
				t.Errorf("status %d, relayed %q; want %d, %q", status, relayed, c.status, c.relayed)
			}
			if (log == "") != (c.log == "") || !strings.Contains(log, c.log) {
				t.Errorf("logged %q, want %q", log, c.log)
			}
		})
	}
}

// TestHeld: the broker gets the descriptors that the keeper holds from the beginning.
func TestHeld(t *testing.T) {
	fdtest.CheckLeaks(t)
	var held []keeper.Held
	for _, name := range []string{"web", "@control"} {
		n, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, keeper.Held{Name: name, FD: scmrights.NewFD(n)})
	}
	if status, _, log := run(t, nil, held, "has=web,@control ready exit=1 / has=web,@control exit=0"); status != 0 {
		t.Errorf("status %d, %s", status, log)
	}
}

// TestSignals: a broker that was asked to end is not started again. If it does not end, the
// second signal kills it.
func TestSignals(t *testing.T) {
	fdtest.CheckLeaks(t)
	signals := make(chan os.Signal, 4)
	if status, _, log := run(t, signals, nil, "ready exit=1 / ready wait"); status != 128+15 || strings.Count(log, "\n") != 1 {
		t.Errorf("status %d, %s", status, log)
	}
	signals <- syscall.SIGHUP
	// The keeper relays it when the broker is ready, and not before.
	if status, relayed, log := run(t, signals, nil, "ready wait / exit=0"); status != 0 || len(relayed) != 1 || !strings.Contains(log, "signal 1") {
		t.Errorf("status %d, relayed %q, %s", status, relayed, log)
	}
}

// TestStopWhileRestarting: another program that takes over is asked to end once it is ready.
func TestStopWhileRestarting(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := t.TempDir()
	cmd, other := otherProgram(t, "ready", "reloading", "until="+dir+"/taken", "ready", "wait")
	if err := unix.Mkfifo(dir+"/taken", 0o600); err != nil {
		t.Fatal(err)
	}
	signals := make(chan os.Signal)
	taken := make(chan *os.File, 1)
	ready := 0
	status := keeper.Run(keeper.Config{
		Program: other, Args: cmd.Args, Env: cmd.Env, StoreEnv: storeEnv, Signals: signals, Logger: zerolog.Nop(),
		Renewed: func(int, []keeper.Held, *os.File) error { return errors.New("not replaced") },
		Relay: func(text string) error {
			switch {
			case text == "RELOADING=1":
				go func() {
					signals <- syscall.SIGTERM                        // blocks until the keeper has it
					f, err := os.OpenFile(dir+"/taken", os.O_RDWR, 0) // does not block (fifo(7))
					if err != nil {
						t.Error(err)
					}
					taken <- f
				}()
			case strings.HasPrefix(text, "READY=1"):
				ready++
			}
			return nil
		},
	})
	_ = (<-taken).Close()
	if status != 128+15 || ready != 2 {
		t.Errorf("status %d, ready %d times", status, ready)
	}
}

func TestCannotStart(t *testing.T) {
	fdtest.CheckLeaks(t)
	var b bytes.Buffer
	status := keeper.Run(keeper.Config{Program: "/no/such/program", Args: []string{"x"}, Logger: zerolog.New(&b)})
	if status != 1 || !strings.Contains(b.String(), "/no/such/program: no such file or directory") {
		t.Errorf("status %d, %s", status, b.String())
	}
}
