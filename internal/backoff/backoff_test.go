package backoff_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/fdbroker/fdbroker/internal/backoff"
)

func TestNext(t *testing.T) {
	for _, c := range []struct {
		backoff backoff.Backoff
		want    []time.Duration // in milliseconds
	}{
		{backoff.Backoff{}, []time.Duration{10, 20, 40, 80, 160, 250, 250}},
		{backoff.Backoff{Min: time.Millisecond, Max: 3 * time.Millisecond}, []time.Duration{1, 2, 3, 3}},
		{backoff.Backoff{Last: 100 * time.Millisecond}, []time.Duration{200, 250}},
		{backoff.Backoff{Max: 5 * time.Millisecond}, []time.Duration{5, 5}},
	} {
		var got []time.Duration
		for range c.want {
			got = append(got, c.backoff.Next()/time.Millisecond)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("delays of %v ms, want %v", got, c.want)
		}
	}
}

func TestWait(t *testing.T) {
	b := backoff.Backoff{Min: time.Millisecond}
	if err := b.Wait(t.Context()); err != nil || b.Last != time.Millisecond {
		t.Errorf("waited %v: %v", b.Last, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b = backoff.Backoff{Min: time.Hour, Max: time.Hour}
	if err := b.Wait(ctx); err != context.Canceled {
		t.Errorf("waited for a context that is done: %v", err)
	}
}
