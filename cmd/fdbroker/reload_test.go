package main

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/rs/zerolog"
)

// TestReloadStops: a broker that is to stop does not wait for its configuration.
func TestReloadStops(t *testing.T) {
	fdtest.CheckLeaks(t)
	r := &reloader{config: "conf", manager: &manager{}, log: zerolog.Nop(), stopped: make(chan struct{})}
	ctx, stop := context.WithCancel(context.Background())
	hangs := make(chan struct{})
	defer close(hangs)
	result := make(chan error)
	go func() {
		_, err := unless(r.stopped, func() (int, error) {
			stop()
			<-hangs
			return 0, nil
		})
		result <- err
	}()
	r.onSignals(ctx, nil)
	if err := <-result; !errors.Is(err, errStops) {
		t.Errorf("got %v", err)
	}
	if _, err := r.reload(server.ReloadOptions{}); err == nil || !strings.Contains(err.Error(), errStops.Error()) && !strings.Contains(err.Error(), "conf") {
		t.Errorf("once stopped: got %v", err)
	}
}
