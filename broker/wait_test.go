//go:build linux

package broker_test

import (
	"context"
	"errors"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"golang.org/x/sys/unix"
)

// later runs a Dial and returns a channel for its result.
func later(ctx context.Context, d *broker.Dialer, name string) <-chan dialed {
	result := make(chan dialed, 1)
	go func() {
		ln, err := d.Dial(ctx, name)
		result <- dialed{ln, err}
	}()
	return result
}

type dialed struct {
	ln  *broker.Listener
	err error
}

// close closes the listener, and fails the test if the Dial has failed.
func (d dialed) close(t *testing.T) {
	t.Helper()
	if d.err != nil {
		t.Fatal(d.err)
	}
	if err := d.ln.Close(); err != nil {
		t.Error(err)
	}
}

// isOver checks that d ended because of its context.
func (d dialed) isOver(t *testing.T, want error) {
	t.Helper()
	if d.ln != nil || !errors.Is(d.err, want) {
		t.Errorf("got %v, %v, want %v", d.ln, d.err, want)
	}
}

func TestWaitForBroker(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := filepath.Join(fdtest.SocketDir(t), "c")
	d := &broker.Dialer{Socket: path, Wait: true}
	result := later(context.Background(), d, "web")
	// Once without, so the client meets a missing broker first.
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	_, err := d.Dial(ctx, "web")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	startBrokerAt(t, path, server.Config{}, "web=127.0.0.1:0")
	(<-result).close(t)
}

// TestWaitTellsWhatWasMissing: the error of a wait in vain says what was missing.
func TestWaitTellsWhatWasMissing(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := filepath.Join(fdtest.SocketDir(t), "c")
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	_, err := (&broker.Dialer{Socket: path, Wait: true}).Dial(ctx, "web")
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, broker.ErrNoBroker) {
		t.Errorf("got %v", err)
	}
}

func TestWaitForName(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t)
	result := later(context.Background(), b.waiting(), "web")
	b.waitWaiting("web", 1)
	b.bind("web=127.0.0.1:0")
	(<-result).close(t)
}

func TestWaitForPlace(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0,max=1")
	first := b.dial("web")
	second := later(context.Background(), b.waiting(), "web")
	b.waitWaiting("web", 1)
	third := later(context.Background(), b.waiting(), "web")
	b.waitWaiting("web", 2)
	_ = first.Close()
	got := <-second
	select {
	case r := <-third:
		t.Errorf("the third got %v, %v while the second held the place", r.ln, r.err)
	default:
	}
	got.close(t)
	(<-third).close(t)
}

// TestWaitSurvivesBroker: a client that waits when the broker goes waits for the next one.
func TestWaitSurvivesBroker(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t)
	result := later(context.Background(), b.waiting(), "web")
	b.waitWaiting("web", 1)
	b.stop()
	startBrokerAt(t, b.path, server.Config{}, "web=127.0.0.1:0")
	(<-result).close(t)
}

// TestWaitIsRefused: a refusal ends the wait.
func TestWaitIsRefused(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0,blocking")
	b.get("web")
	(<-later(context.Background(), b.waiting(), "web")).isOver(t, broker.ErrConflict)
}

func TestCancelWhileWaiting(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t)
	ctx, cancel := context.WithCancel(context.Background())
	result := later(ctx, b.waiting(), "web")
	b.waitWaiting("web", 1)
	cancel()
	(<-result).isOver(t, context.Canceled)
	b.waitWaiting("web", 0)
}

func TestCancelWithoutBroker(t *testing.T) {
	fdtest.CheckLeaks(t)
	ctx, cancel := context.WithCancel(context.Background())
	d := &broker.Dialer{Socket: filepath.Join(fdtest.SocketDir(t), "c"), Wait: true}
	result := later(ctx, d, "web")
	cancel()
	(<-result).isOver(t, context.Canceled)
}

func TestCancelWhileTheReplyIsAwaited(t *testing.T) {
	fdtest.CheckLeaks(t)
	f := startFake(t)
	ctx, cancel := context.WithCancel(context.Background())
	result := later(ctx, f.dialer(), "web")
	c := f.accept()
	c.readCall()
	cancel()
	(<-result).isOver(t, context.Canceled)
	if _, err := c.conn.Read(make([]byte, 1)); err == nil { // it has hung up
		t.Error("there is more to read")
	}
}

func TestCancelMidReply(t *testing.T) {
	fdtest.CheckLeaks(t)
	f := startFake(t)
	ctx, cancel := context.WithCancel(context.Background())
	result := later(ctx, f.dialer(), "web")
	c := f.accept()
	c.readCall()
	c.send(`{"parameters":{"grant":1,`, 1)
	c.waitRead() // the client has half of the reply and its descriptor
	cancel()
	(<-result).isOver(t, context.Canceled)
}

// TestDeadlineInFullQueue: the control socket's queue is full, so connect blocks.
func TestDeadlineInFullQueue(t *testing.T) {
	fdtest.CheckLeaks(t)
	path := filepath.Join(fdtest.SocketDir(t), "c")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil { // room for one
		t.Fatal(err)
	}
	filler, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(filler)
	if err := unix.Connect(filler, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	for _, wait := range []bool{false, true} {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		d := &broker.Dialer{Socket: path, Wait: wait}
		(<-later(ctx, d, "web")).isOver(t, context.DeadlineExceeded)
		cancel()
	}
	ctx, cancel := context.WithCancel(context.Background())
	result := later(ctx, &broker.Dialer{Socket: path}, "web")
	cancel()
	(<-result).isOver(t, context.Canceled)
}

func TestCancelledBefore(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	(<-later(ctx, b.dialer(), "web")).isOver(t, context.Canceled)
	(<-later(ctx, b.waiting(), "web")).isOver(t, context.Canceled)
	b.waitHolders("web", 0)
}

// TestCancelAgainstReply: a Dial that succeeds has its grant, even if its context ends at the
// same moment.
func TestCancelAgainstReply(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0")
	for i := range 300 {
		ctx, cancel := context.WithCancel(context.Background())
		result := later(ctx, b.dialer(), "web")
		for range i {
			runtime.Gosched()
		}
		cancel()
		r := <-result
		if r.err != nil {
			r.isOver(t, context.Canceled)
			continue
		}
		list, err := b.client().List(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		held := false
		for _, h := range list.Holders {
			held = held || h.Grant == r.ln.Grant() && slices.Equal(h.Names, []string{"web"})
		}
		if !held {
			t.Fatalf("attempt %d: grant %d of a Listener that is open has ended", i, r.ln.Grant())
		}
		r.close(t)
	}
	b.waitHolders("web", 0)
}
