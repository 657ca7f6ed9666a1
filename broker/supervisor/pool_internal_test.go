//go:build linux

package supervisor

import (
	"testing"
	"time"
)

// TestDelay: none at first, then twice as long each time, up to the last; never less than
// a half of that.
func TestDelay(t *testing.T) {
	const first, last = 100 * time.Millisecond, time.Second
	for failures, full := range []time.Duration{0, first, 2 * first, 4 * first, 8 * first, last, last} {
		least, most := last, time.Duration(0)
		for range 1000 {
			d := delay(failures, first, last)
			least, most = min(least, d), max(most, d)
		}
		if least < full/2 || most > full {
			t.Errorf("after %d failures: between %v and %v, want between %v and %v", failures, least, most, full/2, full)
		}
		if full > 0 && most-least < full/4 {
			t.Errorf("after %d failures: always about %v", failures, least)
		}
	}
	if d := delay(1<<30, first, last); d > last {
		t.Errorf("after many failures: %v", d)
	}
}
