//go:build linux

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

// A process is a running shell command with all its descendants. They share a
// process group, so that one signal ends a loop and its worker at once: ended
// one after the other, the loop would start the next worker in between.
type process struct {
	command string
	pid     int
	output  output
	ready   <-chan struct{} // closed once it has printed that it is
	cancel  context.CancelFunc
	ended   chan struct{} // closed once nobody holds the output any more
}

// start runs a shell command in dir until ctx is done or stop is called.
// It counts as ready as soon as it has printed the text ready.
func start(ctx context.Context, dir string, env []string, command, ready string) (*process, error) {
	ctx, cancel := context.WithCancel(ctx)
	p := &process{command: command, cancel: cancel, ended: make(chan struct{})}
	p.ready = p.output.expect(ready)
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
		_ = cmd.Wait() // how it ended is in its output, and no failure of ours
		close(p.ended)
	}()
	return p, nil
}

// waitReady waits until the command has said that it is ready.
func (p *process) waitReady(ctx context.Context) error { return p.wait(ctx, p.ready) }

// waitFor waits until the command has printed a text.
func (p *process) waitFor(ctx context.Context, text string) error {
	return p.wait(ctx, p.output.expect(text))
}

func (p *process) wait(ctx context.Context, seen <-chan struct{}) error {
	select {
	case <-seen:
		return nil
	case <-p.ended:
		return fmt.Errorf("%s: ended before it was ready:\n%s", p.command, p.output.String())
	case <-ctx.Done():
		return fmt.Errorf("%s: not ready: %w:\n%s", p.command, context.Cause(ctx), p.output.String())
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

// An output keeps what a command prints and watches for texts in it.
type output struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	seen map[string]chan struct{} // by text; closed and removed when it has been printed
}

// expect returns what is closed when a text has been printed.
func (o *output) expect(text string) <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.seen == nil {
		o.seen = make(map[string]chan struct{})
	}
	seen := make(chan struct{})
	o.seen[text] = seen
	o.look()
	return seen
}

// look closes what is seen. The lock is held.
func (o *output) look() {
	for text, seen := range o.seen {
		if bytes.Contains(o.buf.Bytes(), []byte(text)) {
			close(seen)
			delete(o.seen, text)
		}
	}
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf.Write(p)
	o.look()
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
