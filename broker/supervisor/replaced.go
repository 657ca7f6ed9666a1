//go:build linux

package supervisor

import (
	"context"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/protocol"
)

// askTime is how long the broker is given to ask the workers of a deploy that has been
// replaced to leave.
const askTime = 2 * time.Second

// allAsked reports whether the broker has asked all workers of this deploy to leave, or
// none is left. A broker without privileges may not signal another user's processes.
func (b *Brokered) allAsked(ctx context.Context) bool {
	client := broker.Client{Socket: b.Socket}
	defer client.Close()
	limited, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	for wait := lookMin; ; wait = min(2*wait, lookMax) {
		list, err := client.List(limited)
		if err == nil && !b.serves(list) {
			return true
		}
		select {
		case <-time.After(wait):
		case <-limited.Done():
			return ctx.Err() != nil
		}
	}
}

// serves reports whether a worker of this deploy has a listener, and was not asked to
// leave.
func (b *Brokered) serves(list protocol.ListReply) bool {
	for _, h := range list.Holders {
		if h.Generation == b.generation.Load() && h.State == protocol.StateActive {
			return true
		}
	}
	return false
}
