package main

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/cli"
)

// TestCheckLayout: a program that could not read the state of the broker that runs does
// not pass that broker's check.
func TestCheckLayout(t *testing.T) {
	for layout, want := range map[string]int{"": cli.OK, server.StateLayout(): cli.OK, "bstate1": cli.Usage} {
		t.Setenv(layoutEnv, layout)
		var stdout, stderr bytes.Buffer
		status := run(context.Background(), []string{"--check", "--socket", "/run/fdbroker.sock", "--bind", "web=:9000"}, inputs{}, &stdout, &stderr)
		if said := strings.Contains(stderr.String(), "which is "+layout+" and not "+server.StateLayout()); status != want || said != (want != cli.OK) {
			t.Errorf("%q: exit status %d, %s", layout, status, &stderr)
		}
	}
}
