package supervisor

import (
	"context"
	"errors"
	"os/exec"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// TestWaitWithoutPidfd: where pidfds are refused, a wait ends all the same: with its context, or the process.
func TestWaitWithoutPidfd(t *testing.T) {
	fdtest.CheckLeaks(t)
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	a := &asker{pid: cmd.Process.Pid}
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if exited, err := a.wait(ctx); exited || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %t, %v", exited, err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if exited, err := a.wait(context.Background()); !exited || err != nil {
		t.Errorf("got %t, %v", exited, err)
	}
	a.close()
}
