package server_test

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

// TestUntilReady: the journal says how the last broker has ended that was ready: brokers that were not
// ready change nothing of that.
func TestUntilReady(t *testing.T) {
	fdtest.CheckLeaks(t)
	k := newKeeping(t)
	b, _ := k.start("web=127.0.0.1:0")
	if err := b.stop(); err == nil {
		t.Fatal("it has not been stopped")
	}
	// As if that broker had ended for an upgrade, in another process.
	const atEnding, upgrading, otherProcess = 16, 2, 1
	words := binary.NativeEndian.AppendUint64(binary.NativeEndian.AppendUint64(nil, upgrading), otherProcess)
	if err := k.journal().Control(func(fd uintptr) {
		if n, err := unix.Pwrite(int(fd), words, atEnding); n != len(words) {
			t.Errorf("wrote %d bytes, %v", n, err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{protocol.WhyUpgradeFailed, protocol.WhyUpgradeFailed, protocol.WhyCrashed, protocol.WhyCrashed} {
		s, err := server.New(server.Config{Store: k, Outlived: true})
		if err != nil {
			t.Fatal(err)
		}
		took, err := s.Restore(k.passed())
		if err != nil {
			t.Fatal(err)
		}
		control, err := server.ListenControl(server.ControlConfig{Path: k.path, Restored: took.Control})
		if err != nil {
			t.Fatal(err)
		}
		_ = control.Listener.Close()
		control.Release()
		if took.Why != want {
			t.Errorf("%d: %q, want %q", i, took.Why, want)
		}
		if i == 1 {
			s.Ready()
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestWasReady: a broker that follows one which was never ready may refuse to start; one that follows a broker which has
// answered may not, even if nothing is left of what that had bound.
func TestWasReady(t *testing.T) {
	fdtest.CheckLeaks(t)
	k := newKeeping(t)
	stopped, stop := context.WithCancel(context.Background())
	stop()
	for i, want := range []bool{false, false, true, true} {
		s, err := server.New(server.Config{Store: k, Outlived: true})
		if err != nil {
			t.Fatal(err)
		}
		took, err := s.Restore(k.passed())
		if err != nil {
			t.Fatal(err)
		}
		control, err := server.ListenControl(server.ControlConfig{Path: k.path, Restored: took.Control})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.KeepControl(control); err != nil {
			t.Error(err)
		}
		if i == 1 {
			s.Ready()
		}
		if err := s.Serve(stopped, control.Listener); !errors.Is(err, server.ErrClosed) { // as a broker that is not ready in time
			t.Error(err)
		}
		control.Release()
		if took.WasReady != want || took.Restarted != (i > 0) {
			t.Errorf("%d: %+v, want WasReady %t", i, took, want)
		}
		if i == 1 {
			s.Ready()
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestRestoredCounted: a broker that takes over tells how many listeners it has before it binds others.
func TestRestoredCounted(t *testing.T) {
	fdtest.CheckLeaks(t)
	k := newKeeping(t)
	b, _ := k.start("web=127.0.0.1:0", "api=127.0.0.1:0")
	if err := b.stop(); err == nil {
		t.Fatal("it has not been stopped")
	}
	counted := 0
	s, err := server.New(server.Config{Store: k, Outlived: true, Counted: func(n int) { counted = n }})
	if err != nil {
		t.Fatal(err)
	}
	took, err := s.Restore(k.passed())
	if err != nil || took.Listeners != 2 || counted != 2 {
		t.Errorf("took over %+v, %v, and told of %d listeners", took, err, counted)
	}
	if took.Control != nil {
		_ = took.Control.FD.Close()
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestRestartedOnceItServes: clients that begin to watch are told of a restart as long after the broker serves,
// however long it took to start.
func TestRestartedOnceItServes(t *testing.T) {
	fdtest.CheckLeaks(t)
	k := newKeeping(t)
	b, _ := k.start()
	_ = b.stop()
	s, err := server.New(server.Config{Store: k, Outlived: true})
	if err != nil {
		t.Fatal(err)
	}
	took, err := s.Restore(k.passed())
	if err != nil {
		t.Fatal(err)
	}
	control, err := server.ListenControl(server.ControlConfig{Path: k.path, Restored: took.Control})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(10 * time.Millisecond) // so the time of the event cannot be that of Restore
	began := time.Now()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, control.Listener) }()
	c := dialClient(t, k.path)
	c.send(watch)
	c.event()
	if e, _ := c.event(); e.What != protocol.EventRestarted || e.Time < began.UnixMicro() {
		t.Errorf("got %+v, and it serves since %d", e, began.UnixMicro())
	}
	cancel()
	<-served
	control.Release()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
