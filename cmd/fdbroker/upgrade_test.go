package main

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/broker/server"
)

// TestCheckLayout: a program that could not read the state of the broker that runs does
// not pass that broker's check.
func TestCheckLayout(t *testing.T) {
	for layout, want := range map[string]int{"": exitOK, server.StateLayout(): exitOK, "bstate1": exitUsage} {
		t.Setenv(layoutEnv, layout)
		var stdout, stderr bytes.Buffer
		status := run(context.Background(), []string{"--check", "--bind", "web=:9000"}, inputs{}, &stdout, &stderr)
		if said := strings.Contains(stderr.String(), "which is "+layout+" and not "+server.StateLayout()); status != want || said != (want != exitOK) {
			t.Errorf("%q: exit status %d, %s", layout, status, &stderr)
		}
	}
}
