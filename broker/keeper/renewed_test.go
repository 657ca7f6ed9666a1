package keeper_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
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

// TestRenewed: a message behind READY=1 is left for the program that replaces the keeper.
func TestRenewed(t *testing.T) {
	fdtest.CheckLeaks(t)
	cmd, other := otherProgram(t, "ready", "store=a", "wait")
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

// TestNotReady: another program that takes over is killed if it is not ready in time. The
// keeper's own program may take longer.
func TestNotReady(t *testing.T) {
	fdtest.CheckLeaks(t)
	for _, isOther := range []bool{true, false} {
		cmd, program := otherProgram(t, strings.Fields("ready reloading wait / ready exit=0")...)
		if !isOther {
			program = "/proc/self/exe"
		}
		var log bytes.Buffer
		signals := make(chan os.Signal, 1)
		reloading := make(chan struct{})
		if !isOther {
			go func() { // longer than another program may take
				<-reloading
				<-time.After(200 * time.Millisecond)
				signals <- syscall.SIGTERM
			}()
		}
		status := keeper.Run(keeper.Config{
			Program: program, Args: cmd.Args, Env: cmd.Env, StoreEnv: storeEnv, Signals: signals, Logger: zerolog.New(&log),
			Relay: func(text string) error {
				if text == "RELOADING=1" {
					close(reloading)
				}
				return nil
			},
			Renewed:   func(int, []keeper.Held, *os.File) error { return errors.New("not replaced") },
			ReadyTime: 50 * time.Millisecond,
		})
		killed := strings.Contains(log.String(), "not ready in time") && strings.Contains(log.String(), "killed by signal 9")
		if want := map[bool]int{true: 0, false: 128 + 15}[isOther]; status != want || killed != isOther {
			t.Errorf("another program: %t; status %d, want %d; %s", isOther, status, want, &log)
		}
	}
}

// otherProgram returns the command of a broker with these lives, and a copy of its program.
func otherProgram(t *testing.T, lives ...string) (cmd *exec.Cmd, other string) {
	t.Helper()
	dir := t.TempDir()
	cmd = fdtest.Helper(t, "broker", append([]string{dir + "/lives"}, lives...)...)
	text, err := os.ReadFile(cmd.Path)
	if err != nil {
		t.Fatal(err)
	}
	other = filepath.Join(dir, "other")
	if err := os.WriteFile(other, text, 0o700); err != nil {
		t.Fatal(err)
	}
	return cmd, other
}
