//go:build linux

package keeper_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker/keeper"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/scmrights"
	"github.com/rs/zerolog"
)

// TestRenewed: what the broker tells behind READY=1 is left for who replaces the keeper.
func TestRenewed(t *testing.T) {
	fdtest.CheckLeaks(t)
	dir := t.TempDir()
	cmd := fdtest.Helper(t, "broker", dir+"/lives", "ready", "store=a", "wait")
	text, err := os.ReadFile(cmd.Path)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, text, 0o700); err != nil {
		t.Fatal(err)
	}
	signals := make(chan os.Signal, 1)
	renewed := 0
	keeper.Run(keeper.Config{
		Program: other, Args: cmd.Args, Env: cmd.Env, StoreEnv: storeEnv, Signals: signals, Logger: zerolog.Nop(),
		Relay: func(string) error { return nil },
		Renewed: func(_ int, _ []keeper.Held, pair *os.File) error {
			renewed++
			defer func() { signals <- syscall.SIGTERM }()
			_ = pair.SetReadDeadline(time.Now().Add(2 * time.Second))
			defer pair.SetReadDeadline(time.Time{})
			conn, err := scmrights.NewConn(pair)
			if err != nil {
				t.Error(err)
				return err
			}
			b := make([]byte, 100)
			n, fds, err := conn.Recv(b, 1)
			scmrights.CloseAll(fds)
			if err != nil || len(fds) != 1 || !strings.Contains(string(b[:n]), "FDNAME=a\n") {
				t.Errorf("got %q with %d descriptors, %v", b[:n], len(fds), err)
			}
			return errors.New("not replaced")
		},
	})
	if renewed != 1 {
		t.Errorf("replaced %d times", renewed)
	}
}
