//go:build linux

package broker_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/fdbroker/fdbroker/broker"
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
