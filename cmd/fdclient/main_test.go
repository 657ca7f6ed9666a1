package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"fdclient": main, "probe": probe, "passing": passing})
}

// TestScripts runs both commands as their users do.
func TestScripts(t *testing.T) {
	bin := t.TempDir()
	fdtest.Build(t, bin, "github.com/fdbroker/fdbroker/cmd/fdbroker")
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("FDBROKER", bin+"/fdbroker")
			env.Setenv("PATH", bin+":"+env.Getenv("PATH"))
			env.Setenv("FDBROKER_SOCKET", env.WorkDir+"/s")
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status":  scriptStatus,
			"ready":   scriptReady,
			"until":   scriptUntil,
			"setenv":  scriptSetenv,
			"connect": scriptConnect,
			"listen":  scriptListen,
			"overrun": scriptOverrun,
		},
		Condition: func(name string) (bool, error) {
			if name == "root" {
				return os.Getuid() == 0, nil
			}
			return false, fmt.Errorf("there is no condition %q", name)
		},
	})
}

// scriptStatus runs a command and checks its exit status: status N COMMAND...
func scriptStatus(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	if neg || err != nil {
		ts.Fatalf("usage: status N COMMAND...")
	}
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d; stdout:\n%sstderr:\n%s", got, want, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	}
}

// scriptReady waits until a broker answers: ready [SOCKET]
func scriptReady(ts *testscript.TestScript, _ bool, args []string) {
	c := broker.Client{Socket: ts.Getenv("FDBROKER_SOCKET")}
	if len(args) > 0 {
		c.Socket = ts.MkAbs(args[0])
	}
	defer c.Close()
	for range 2000 {
		if _, err := c.Info(context.Background()); err == nil {
			return
		}
		_, _ = unix.Poll(nil, 10) // until there is a broker
	}
	ts.Fatalf("no broker answers at %s", c.Socket)
}

// scriptUntil runs a command until its output matches: until PATTERN COMMAND...
func scriptUntil(ts *testscript.TestScript, _ bool, args []string) {
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	for range 1000 {
		if err := ts.Exec(args[1], args[2:]...); err == nil && pattern.MatchString(ts.ReadFile("stdout")) {
			return
		}
		_, _ = unix.Poll(nil, 10)
	}
	ts.Fatalf("never printed %q; at last:\n%s%s", args[0], ts.ReadFile("stdout"), ts.ReadFile("stderr"))
}

// scriptSetenv sets a variable to the output of the last command: setenv NAME
func scriptSetenv(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

// scriptConnect connects, and leaves the connection open: connect NETWORK ADDRESS
func scriptConnect(ts *testscript.TestScript, _ bool, args []string) {
	c, err := net.Dial(args[0], args[1])
	ts.Check(err)
	ts.Defer(func() { _ = c.Close() })
}

// scriptListen takes a port of 127.0.0.1, as some other program: listen NAME
// sets NAME to the port.
func scriptListen(ts *testscript.TestScript, _ bool, args []string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { _ = ln.Close() })
	ts.Setenv(args[0], strconv.Itoa(ln.Addr().(*net.TCPAddr).Port))
}

// scriptOverrun causes more events than the broker keeps for a watcher that does not read, and
// waits for longer than the broker waits for any call: overrun
func scriptOverrun(ts *testscript.TestScript, _ bool, _ []string) {
	c := broker.Client{Socket: ts.Getenv("FDBROKER_SOCKET")}
	defer c.Close()
	for range 10_000 {
		if _, err := c.Get(context.Background(), broker.GetOptions{}, "none"); !errors.Is(err, broker.ErrUnknownName) {
			ts.Fatalf("got %v", err)
		}
	}
	for range 2 { // one might have begun before the watcher's reply did
		silent, err := net.Dial("unix", c.Socket)
		ts.Check(err)
		_, err = io.Copy(io.Discard, silent)
		ts.Check(errors.Join(err, silent.Close()))
	}
}

// probe is a program for fdclient get to become: it prints its words, and what it
// has been given. With "exit N" it exits with N.
func probe() {
	for _, word := range os.Args[1:] {
		fmt.Println("word", word)
	}
	for _, key := range []string{"LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "X"} {
		value, ok := os.LookupEnv(key)
		switch {
		case !ok:
		case key == "LISTEN_PID":
			fmt.Println("LISTEN_PID is ours:", value == strconv.Itoa(os.Getpid()))
		default:
			fmt.Printf("%s=%s\n", key, value)
		}
	}
	for fd := range 12 {
		if text := describe(fd); text != "" {
			fmt.Println("fd", fd, text)
		}
	}
	if len(os.Args) == 3 && os.Args[1] == "exit" {
		n, _ := strconv.Atoi(os.Args[2])
		os.Exit(n)
	}
}

// passing runs a command with new listening sockets: one as descriptor 3 or, behind
// LISTEN=NAME[:NAME]..., as a service manager passes them. The command has its pid.
func passing() {
	words, env := os.Args[1:], os.Environ()
	names, listen := strings.CutPrefix(words[0], "LISTEN=")
	count := 1
	if listen {
		words = words[1:]
		count = strings.Count(names, ":") + 1
		env = append(env, fmt.Sprintf("LISTEN_FDS=%d", count), fmt.Sprintf("LISTEN_PID=%d", os.Getpid()), "LISTEN_FDNAMES="+names)
	}
	path, err := exec.LookPath(words[0])
	for i := 0; i < count && err == nil; i++ {
		err = listenAt(3 + i)
	}
	if err == nil {
		err = unix.Exec(path, words, env)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(99)
}

// listenAt makes descriptor n a listening socket, which the command inherits.
func listenAt(n int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	if err == nil {
		err = unix.Listen(fd, 16)
	}
	switch {
	case err != nil:
	case fd == n:
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0)
	default:
		err = unix.Dup3(fd, n, 0)
	}
	return err
}

// describe describes the socket fd, if it is one.
func describe(fd int) string {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return ""
	}
	mode := "blocking"
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err == nil && flags&unix.O_NONBLOCK != 0 {
		mode = "non-blocking"
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return fmt.Sprintf("127.0.0.1:%d %s", sa.Port, mode)
	case *unix.SockaddrUnix:
		return sa.Name + " " + mode
	}
	return mode
}
