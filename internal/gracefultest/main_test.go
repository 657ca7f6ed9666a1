//go:build linux

package gracefultest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// programs is the directory of fdbroker's programs.
var programs string

func TestMain(m *testing.M) {
	if os.Getenv(fdtest.HelperEnv) != "" {
		fdtest.Main(m, map[string]func([]string) int{"worker": worker})
	}
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "fdprograms")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-o", dir+"/", "./cmd/fdbroker", "./cmd/fdclient")
	build.Dir = "../.." // the other module
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		return 1
	}
	programs = dir
	return m.Run()
}

// start starts a program of fdbroker's. It ends with the test.
func start(t *testing.T, program string, args ...string) *process {
	t.Helper()
	return startCommand(t, exec.Command(filepath.Join(programs, program), args...))
}

// process is a process whose lines of output are kept.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	wait func() error // may be called again

	mu   sync.Mutex
	text strings.Builder
}

func startCommand(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = in, in
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = in.Close()
	p := &process{t: t, cmd: cmd}
	var reading sync.WaitGroup
	reading.Go(func() {
		defer out.Close()
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.mu.Lock()
			p.text.WriteString(lines.Text() + "\n")
			p.mu.Unlock()
		}
	})
	p.wait = sync.OnceValue(func() error {
		err := cmd.Wait()
		reading.Wait() // ends with the last process that has its end
		return err
	})
	t.Cleanup(func() { fdtest.Stop(cmd.Process, func() { _ = p.wait() }) })
	return p
}

// said returns what the process and its workers have printed.
func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// waitSaid waits until a text was printed n times.
func (p *process) waitSaid(text string, n int) {
	p.t.Helper()
	fdtest.Eventually(p.t, "it says "+text, func() bool { return strings.Count(p.said(), text) >= n })
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// startBroker starts a broker with listeners, and sets FDBROKER_SOCKET.
func startBroker(t *testing.T, specs ...string) {
	t.Helper()
	control := filepath.Join(fdtest.SocketDir(t), "c")
	t.Setenv("FDBROKER_SOCKET", control)
	args := []string{"--socket", control, "--store=none"}
	for _, s := range specs {
		args = append(args, "--bind", s)
	}
	p := start(t, "fdbroker", args...)
	fdtest.Eventually(t, "the broker answers", func() bool {
		c, err := net.Dial("unix", control)
		if err != nil {
			return false
		}
		_ = c.Close()
		return strings.Contains(p.said(), "serving") || strings.Contains(p.said(), "ready")
	})
}

// freeAddress returns an address of 127.0.0.1 that nothing uses.
func freeAddress(t *testing.T, network string) string {
	t.Helper()
	var c io.Closer
	var address net.Addr
	if network == "tcp" {
		ln, err := net.Listen(network, "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		c, address = ln, ln.Addr()
	} else {
		pc, err := net.ListenPacket(network, "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		c, address = pc, pc.LocalAddr()
	}
	_ = c.Close()
	return address.String()
}
