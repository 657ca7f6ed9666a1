//go:build linux

package broker_test

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/fdtest"
	"github.com/fdbroker/fdbroker/protocol"
)

func TestWatch(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0")
	enough := errors.New("enough")
	var got []string
	err := b.client().Watch(context.Background(), func(e protocol.Event) error {
		got = append(got, e.What)
		switch e.What {
		case protocol.EventWatching:
			_ = b.dial("web").Close()
		case protocol.EventEnded:
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || !slices.Equal(got, []string{"watching", "granted", "ended"}) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestWatchEnds(t *testing.T) {
	fdtest.CheckLeaks(t)
	b := startBroker(t, "web=127.0.0.1:0")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := b.client().Watch(ctx, func(protocol.Event) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	none := broker.Client{Socket: fdtest.SocketDir(t) + "/none"}
	if err := none.Watch(context.Background(), nil); !errors.Is(err, broker.ErrNoBroker) {
		t.Errorf("no broker: %v", err)
	}
}

// A watcher that does not read for longer than any call may take, while more happens than the
// broker keeps for it, gets the events that were sent, and then ErrOverflow.
func TestWatchAfterSleep(t *testing.T) {
	fdtest.CheckLeaks(t)
	const calls, limit = 10_000, 500 * time.Millisecond
	b := startBrokerAt(t, filepath.Join(fdtest.SocketDir(t), "c"), server.Config{CallTimeout: limit})
	var got []string
	err := b.client().Watch(context.Background(), func(e protocol.Event) error {
		if got = append(got, e.What); len(got) > 1 {
			return nil
		}
		other := b.client()
		for range calls {
			if _, err := other.Get(context.Background(), broker.GetOptions{}, "none"); !errors.Is(err, broker.ErrUnknownName) {
				return err
			}
		}
		for range 2 { // the first might have begun before the watcher's reply
			b.untilLate()
		}
		return nil
	})
	if n := len(got); !errors.Is(err, broker.ErrOverflow) || got[n-1] != protocol.EventOverflow || n < 1024 || n > calls {
		t.Errorf("got %d events, the last one %s, and %v", n, got[n-1], err)
	}
}

// untilLate connects, and sends nothing until the broker closes the connection.
func (b *testBroker) untilLate() {
	b.t.Helper()
	c, err := net.Dial("unix", b.path)
	if err != nil {
		b.t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.Copy(io.Discard, c); err != nil {
		b.t.Error(err)
	}
}
