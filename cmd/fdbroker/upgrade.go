package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/notify"
	"github.com/fdbroker/fdbroker/protocol"
)

// checkTime is how long a new program may take to check the configuration.
const checkTime = 10 * time.Second

// layoutEnv tells a program that checks whether it can take over the layout of the running broker's state.
const layoutEnv = "FDBROKER_STATE_LAYOUT"

// checkLayout returns an error if this program cannot read the state that it is to go on with.
func checkLayout() error {
	if layout := os.Getenv(layoutEnv); layout != "" && !server.ReadsLayout(layout) {
		return fmt.Errorf("cannot continue with the state of the running broker, which is %s and not %s: listeners that were bound at run time, and all grants, would be lost; stop that broker and start this one", layout, server.StateLayout())
	}
	return nil
}

// onUpgradeSignals makes the program that is now in this one's place take over in this process, for each SIGUSR2 until
// ctx is done.
func (d *daemon) onUpgradeSignals(ctx context.Context) {
	onEach(ctx, d.upgrades, func() {
		if takeOver, err := d.upgrade(); err == nil {
			takeOver()
		}
	})
}

// upgrade checks the new program, and returns the function that makes it take over. If the check fails, the broker
// continues.
func (d *daemon) upgrade() (takeOver func(), err error) {
	d.upgrading.Lock()
	defer d.upgrading.Unlock()
	if err := d.checkNext(); err != nil {
		d.log.Error().Err(err).Str("program", d.self.path).Msg("not upgraded")
		return nil, err
	}
	d.log.Info().Str("program", d.self.path).Msg("upgrading")
	return func() {
		d.manager.tell(notify.Reloading())
		d.end(server.ErrUpgrading)
	}, nil
}

// checkNext runs the new program with --check and the same arguments.
func (d *daemon) checkNext() error {
	if _, err := os.Stat(ownProgram); err != nil {
		return &protocol.UpgradeFailedError{Reasons: []string{fmt.Sprintf("an upgrade needs /proc: %v", err)}}
	}
	ctx, cancel := context.WithTimeout(context.Background(), checkTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, d.self.path, append([]string{"--check"}, os.Args[1:]...)...)
	cmd.Env = append(slices.Clone(d.self.env), layoutEnv+"="+server.StateLayout())
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	text := strings.TrimSpace(string(out[:min(len(out), 4096)]))
	reasons := []string{fmt.Sprintf("%s --check failed (%v); the running broker continues", d.self.path, err)}
	if text != "" {
		reasons = append(reasons, strings.Split(text, "\n")...)
	}
	return &protocol.UpgradeFailedError{Reasons: reasons}
}
