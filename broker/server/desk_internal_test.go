//go:build linux

package server

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

// TestDeskStops: a desk ends whenever in a turn it is asked to, also where it was
// interrupted for something else and reads both interrupts at once.
func TestDeskStops(t *testing.T) {
	fdtest.CheckLeaks(t)
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	control, err := ListenControl(ControlConfig{Path: filepath.Join(fdtest.SocketDir(t), "c"), Mode: 0o600})
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	defer control.Listener.Close()
	ctx := &endsOnceLookedAt{Context: context.Background()}
	ctx.ended = s.desk.interrupt
	var running sync.WaitGroup
	if err := s.desk.open(ctx, control.Listener, &running); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.desk.run() }()
	ctx.armed.Store(true)
	s.desk.interrupt()
	select {
	case err = <-done:
	case <-time.After(20 * time.Second):
		t.Error("it was asked to end, and waits for something to happen")
		s.desk.interrupt()
		err = <-done
	}
	if !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// endsOnceLookedAt is a context that ends just after Err has said, once it is armed, that
// it has not.
type endsOnceLookedAt struct {
	context.Context
	armed, over atomic.Bool
	ended       func()
}

func (c *endsOnceLookedAt) Err() error {
	if c.over.Load() {
		return context.Canceled
	}
	if c.armed.Load() {
		c.over.Store(true)
		c.ended()
	}
	return nil
}
