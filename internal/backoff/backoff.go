// Package backoff spaces attempts at something whose success no event announces. It
// never makes an attempt itself, and never gives up.
package backoff

import (
	"cmp"
	"context"
	"time"
)

// Backoff is the delays between attempts: each is twice as long as the one before. The zero
// value is ready for use. It is not for concurrent use.
type Backoff struct {
	Min time.Duration // the first delay; 0: 10 ms
	Max time.Duration // the longest; 0: 250 ms
	// Last is the delay that Next has returned last; 0 makes it begin with Min.
	Last time.Duration
}

// Next returns how long to wait before the next attempt.
func (b *Backoff) Next() time.Duration {
	least, most := cmp.Or(b.Min, 10*time.Millisecond), cmp.Or(b.Max, 250*time.Millisecond)
	b.Last = min(max(2*b.Last, least), most)
	return b.Last
}

// Wait waits as long as Next says. If ctx is done before, it returns ctx's error.
func (b *Backoff) Wait(ctx context.Context) error { return Sleep(ctx, b.Next()) }

// Sleep waits for d. If ctx is done before, it returns ctx's error.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
