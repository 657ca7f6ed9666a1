package examples_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// A process is a started program; the test's end kills it.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	drain sync.WaitGroup // of its output, which ends when it does
	wait  func() error   // may be called more than once
}

// start starts a program and returns once it has printed a line with the text ready.
func start(t *testing.T, ready, name string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.CommandContext(testContext, name, args...)}
	p.wait = sync.OnceValue(func() error {
		p.drain.Wait()
		return p.cmd.Wait()
	})
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stderr = p.cmd.Stdout
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		fdtest.Stop(p.cmd.Process, func() { _ = p.wait() })
	})
	lines := bufio.NewScanner(out)
	var said strings.Builder
	for lines.Scan() {
		if strings.Contains(lines.Text(), ready) {
			p.drain.Go(func() { _, _ = io.Copy(io.Discard, out) })
			return p
		}
		said.WriteString(lines.Text() + "\n")
	}
	t.Fatalf("%s ended before it was ready:\n%s", name, said.String())
	return nil
}

func (p *process) pid() string { return fmt.Sprint(p.cmd.Process.Pid) }

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}
