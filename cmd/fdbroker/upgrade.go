//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/notify"
	"github.com/fdbroker/fdbroker/protocol"
)

// checkTime is how long a new program may take to check the configuration.
const checkTime = 10 * time.Second

// layoutEnv says, to a program that is to check whether it can take over, what the state
// of the running broker looks like.
const layoutEnv = "FDBROKER_STATE_LAYOUT"

// checkLayout returns an error where this program is to go on with a state that it cannot
// read.
func checkLayout(getenv func(string) string) error {
	if layout := getenv(layoutEnv); layout != "" && !server.ReadsLayout(layout) {
		return fmt.Errorf("cannot go on with the state of the running broker, which is %s and not %s: listeners that were bound at run time, and all grants, would be lost; stop that broker and start this one", layout, server.StateLayout())
	}
	return nil
}

// upgrader makes another program take over in this process, when a signal or a client
// asks: the one that is now where this one was.
type upgrader struct {
	running *running

	mu   sync.Mutex // one at a time
	over context.CancelCauseFunc
}

func newUpgrader(b *running) *upgrader { return &upgrader{running: b} }

// begin says how the broker is stopped.
func (u *upgrader) begin(over context.CancelCauseFunc) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.over = over
}

func (u *upgrader) onSignals(ctx context.Context, signals <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
			if takeOver, err := u.upgrade(); err == nil {
				takeOver()
			}
		}
	}
}

// upgrade checks the new program, and returns what makes it take over. Where the check
// fails the broker goes on.
func (u *upgrader) upgrade() (takeOver func(), err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	b := u.running
	if err := u.check(); err != nil {
		b.log.Error().Err(err).Str("program", b.self.path).Msg("not upgraded")
		return nil, err
	}
	b.log.Info().Str("program", b.self.path).Msg("upgrading")
	return u.takeOver, nil
}

// takeOver ends this broker for the next one.
func (u *upgrader) takeOver() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.running.manager.tell(notify.Reloading())
	u.over(server.ErrUpgrading)
}

// check runs the new program with the same arguments, only to check them.
func (u *upgrader) check() error {
	b := u.running
	ctx, cancel := context.WithTimeout(context.Background(), checkTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.self.path, append([]string{"--check"}, os.Args[1:]...)...)
	cmd.Env = append(slices.Clone(b.self.env), layoutEnv+"="+server.StateLayout())
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	text := strings.TrimSpace(string(out[:min(len(out), 4096)]))
	reasons := []string{fmt.Sprintf("%s --check: %v", b.self.path, err)}
	if text != "" {
		reasons = append(reasons, strings.Split(text, "\n")...)
	}
	return &protocol.UpgradeFailedError{Reasons: reasons}
}
