package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// TestHiddenBroker: if the control socket is gone, but a broker has its lock, no other one should be started.
func TestHiddenBroker(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := fdtest.SocketDir(t) + "/c"
	ping := func() string {
		var out, errs strings.Builder
		if status := run(context.Background(), []string{"--socket", path, "ping"}, &out, &errs); status != 1 {
			t.Errorf("status %d", status)
		}
		return errs.String()
	}
	f, err := os.Create(path + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if said := ping(); !strings.Contains(said, "Start one with") {
		t.Errorf("without a broker: %s", said)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("The broker (pid %d) runs, but its socket is gone", os.Getpid())
	if said := ping(); !strings.Contains(said, want) || strings.Contains(said, "Start one") {
		t.Errorf("with a broker: %s", said)
	}
}
