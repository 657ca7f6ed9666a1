package runtest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// screen keeps what a terminal shows.
type screen struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (s *screen) read(f *os.File) {
	b := make([]byte, 4096)
	for {
		n, err := f.Read(b)
		if err != nil {
			return // EIO: nobody has the terminal open any more
		}
		s.mu.Lock()
		s.all.Write(b[:n])
		s.mu.Unlock()
	}
}

func (s *screen) shows(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(s.all.String(), text)
}

// TestTerminal: in the foreground of a terminal, the workers' output is as they print
// it, and Ctrl-C ends them and run. They get the terminal's signal, and no other at
// once: a second one is no polite request any more.
func TestTerminal(t *testing.T) {
	r := newRig(t, "")
	keys, tty := fdtest.Keyboard(t)
	script := `trap 'echo interrupted; sleep 0.1; echo done; exit 0' INT; trap 'echo terminated' TERM; printf 'a\033[1mb\n'; while :; do sleep 0.01; done`
	cmd := exec.Command(filepath.Join(bin, "fdclient"), "run", "web", "--grace", "19s", "--", "sh", "-c", script)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	var s screen
	var reading sync.WaitGroup
	reading.Go(func() { s.read(keys) })
	p := r.startCmd(cmd)
	_ = tty.Close()
	fdtest.Eventually(t, "the worker's output is shown", func() bool { return s.shows("a\x1b[1mb\r\n") })
	if !s.shows("worker started") || s.shows(`"message"`) {
		t.Error("the log is not for people")
	}
	began := time.Now()
	if _, err := keys.WriteString("\x03"); err != nil {
		t.Fatal(err)
	}
	p.ends(0)
	reading.Wait()
	if !s.shows("interrupted") || !s.shows("done") || s.shows("terminated") {
		t.Errorf("it shows %q", s.all.String())
	}
	if took := time.Since(began); took > 9*time.Second {
		t.Errorf("it took %v", took)
	}
	r.holders(protocol.StateActive, 0)
}

// TestWindowClosed: a terminal that is closed is one more reason for a roll, and does not
// end run. Here that leads the session, so that its workers get no signal.
func TestWindowClosed(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newRig(t, "")
	keys, tty := fdtest.Keyboard(t)
	cmd := exec.Command(filepath.Join(bin, "fdclient"), "run", "web", "--ready", "notify", "--", "worker", "a", "fd")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	p := r.startCmd(cmd)
	_ = tty.Close()
	old := r.holders(protocol.StateActive, 1)
	l := startLoad(t, r.address)
	l.waitFor("a", 1)
	_ = keys.Close()
	fdtest.Eventually(t, "another worker serves", func() bool {
		now := r.running()
		return len(now) == 1 && now[0] != old[0]
	})
	l.waitFor("a", 10)
	l.done(0)
	p.signal(syscall.SIGTERM)
	p.ends(0)
}

// TestWatchdog: a service manager that watches run hears of it in time, and of its end.
func TestWatchdog(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newRig(t, "")
	m := r.manager()
	t.Setenv("NOTIFY_SOCKET", m.path)
	t.Setenv("WATCHDOG_USEC", "20000")
	p := r.run("web", "-n", "2", "--ready", "0s", "--", "sh", "-c", `[ -z "$NOTIFY_SOCKET$WATCHDOG_USEC$FDCLIENT_STATUS_FD" ] || exit 1; exec sleep 1000`)
	m.hears("READY=1\nSTATUS=2 of 2 workers ready")
	for range 3 {
		m.hears("WATCHDOG=1")
	}
	p.signal(syscall.SIGTERM)
	m.hears("STOPPING=1")
	p.ends(0)
	if strings.Contains(p.output(), "worker exited") {
		t.Error("a worker has found what is not for it")
	}
}

// TestInherits: a worker finds its socket, what run itself has inherited, and nothing
// else.
func TestInherits(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := newRig(t, "")
	const list = `echo open: $(ls /proc/self/fd | wc -w) .; `
	plain := r.startCmd(exec.Command("sh", "-c", list))
	<-plain.done
	var without int
	if _, err := fmt.Sscanf(plain.output(), "open: %d .", &without); err != nil {
		t.Fatal(err)
	}
	p := r.run("web", "--stop-signal", "QUIT", "--env", "PORT={port}", "--", "sh", "-c",
		list+`echo port: $PORT; trap "echo quit; exit" QUIT; echo serving; while :; do sleep 0.01; done`)
	p.says("serving")
	p.says(fmt.Sprintf("open: %d .", without+1))
	p.says("port: " + r.address[strings.LastIndexByte(r.address, ':')+1:])
	p.signal(syscall.SIGTERM)
	p.ends(0)
	p.says("quit")
}
