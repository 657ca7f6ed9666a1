package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A process is a running shell command with all its descendants. They share a process group,
// so that one signal ends a loop and its worker together: otherwise the loop would start
// another worker before it ends.
type process struct {
	command string
	pid     int
	output  output
	cancel  context.CancelFunc
	ended   chan struct{} // is closed when no process has the output open
}

// start runs a shell command in dir until ctx is done or stop is called.
func start(ctx context.Context, dir string, env []string, command string) (*process, error) {
	ctx, cancel := context.WithCancel(ctx)
	p := &process{command: command, cancel: cancel, ended: make(chan struct{}), output: output{changed: make(chan struct{})}}
	cmd := exec.CommandContext(ctx, "sh", "-c", "exec "+command)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &p.output, &p.output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	p.pid = cmd.Process.Pid
	go func() {
		_ = cmd.Wait() // the output says how it ended
		close(p.ended)
	}()
	return p, nil
}

// waitFor waits until the command has printed a text.
func (p *process) waitFor(ctx context.Context, text string) error {
	for {
		printed, changed := p.output.get()
		if strings.Contains(printed, text) {
			return nil
		}
		select {
		case <-changed:
		case <-p.ended:
			return fmt.Errorf("%s: ended before it was ready:\n%s", p.command, printed)
		case <-ctx.Done():
			return fmt.Errorf("%s: not ready: %w:\n%s", p.command, context.Cause(ctx), printed)
		}
	}
}

// stop ends the whole group and waits for it.
func (p *process) stop() {
	p.cancel()
	<-p.ended
}

// run waits for a command and returns what it printed on its standard output.
func run(ctx context.Context, dir string, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.Output()
	if err != nil {
		line := name + " " + strings.Join(args, " ")
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			return "", fmt.Errorf("%s: %w: %s", line, err, bytes.TrimSpace(exit.Stderr))
		}
		return "", fmt.Errorf("%s: %w", line, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// An output is what a command has printed so far.
type output struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	changed chan struct{} // is closed when there is more
}

func (o *output) get() (printed string, changed <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String(), o.changed
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.changed)
	o.changed = make(chan struct{})
	return o.buf.Write(p)
}
