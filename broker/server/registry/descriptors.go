package registry

import (
	"sync/atomic"

	"github.com/fdbroker/fdbroker/protocol"
)

// Descriptors counts what each takes one of the broker's descriptors for long: listeners, processes that are followed,
// and clients. So users without privilege can leave some to root. A nil Descriptors has no limit. Its methods may be
// called concurrently.
type Descriptors struct {
	limit, used atomic.Int64
}

const (
	ownDescriptors = 32 // of the broker itself, also for what takes one for a moment
	leastReserve   = 4  // descriptors for root and the broker's user, if a sixteenth is less
)

// SetLimit says how many files this process may have open.
func (d *Descriptors) SetLimit(files int) { d.limit.Store(int64(files)) }

// Add counts n more.
func (d *Descriptors) Add(n int) {
	if d != nil {
		d.used.Add(int64(n))
	}
}

// Room returns for how much more there is room.
func (d *Descriptors) Room() int { return int(d.limit.Load()-d.used.Load()) - ownDescriptors }

// Check returns an error if a user without privilege may take no other one.
func (d *Descriptors) Check() error {
	if d == nil || d.Room() > max(leastReserve, (int(d.limit.Load())-ownDescriptors)/16) {
		return nil
	}
	return d.Exhausted()
}

// Share returns how many of most things one user without privilege may have.
func (d *Descriptors) Share(most int) int {
	if d == nil {
		return most
	}
	return min(most, max(1, (int(d.limit.Load())-ownDescriptors)/2))
}

// Exhausted returns the error that says what to do.
func (d *Descriptors) Exhausted() error {
	return &protocol.LimitError{Limit: "open files (raise ulimit -n, or LimitNOFILE=)", Max: int(d.limit.Load())}
}
