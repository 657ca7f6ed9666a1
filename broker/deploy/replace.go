package deploy

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/broker/supervisor"
	"github.com/fdbroker/fdbroker/internal/backoff"
	"github.com/fdbroker/fdbroker/protocol"
)

const (
	askTime     = 2 * time.Second        // for the broker to ask the workers of a replaced deploy to leave
	exitTime    = 300 * time.Millisecond // in which a worker is reaped that is no holder any more
	nothingHeld = 300 * time.Millisecond // after which replaceOlder logs why it waits
)

// errNothingHeld says that there are no listeners to replace older deploys at: the workers
// were ready before they asked for one.
var errNothingHeld = errors.New("no worker of this deploy has asked for a listener yet, with the deploy's generation (" + broker.GenerationEnv + ")")

// replaceOlder asks the workers of older deploys to leave, once this one's are ready.
func (d *Deploy) replaceOlder(ctx context.Context) {
	select {
	case <-d.ready:
	case <-ctx.Done():
		return
	}
	if !d.config.Replace {
		return
	}
	log, begun, warned := d.config.Logger, time.Now(), false
	for retry := new(backoff.Backoff); ; _ = retry.Wait(ctx) {
		n, err := d.drain(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			log.Info().Int("count", n).Msg("asked the workers of older deploys to leave")
			return
		case errors.Is(err, errNothingHeld):
			if !warned && time.Since(begun) > nothingHeld {
				warned = true
				log.Warn().Err(err).Msg("older deploys continue until then")
			}
		case errors.Is(err, broker.ErrUnasked):
			log.Warn().Err(err).Int("count", n).Msg("asked the workers of older deploys to leave, except these: the fdclient run that started them asks them")
			return
		case !isAway(err):
			log.Error().Err(err).Msg("older deploys continue, because they could not be asked to leave")
			return
		}
	}
}

// drain asks the older holders of the listeners that this deploy names or holds to leave.
func (d *Deploy) drain(ctx context.Context) (int, error) {
	client := d.client()
	defer client.Close()
	names := slices.Clone(d.config.Names)
	if len(names) == 0 {
		list, err := client.List(ctx)
		if err != nil {
			return 0, err
		}
		for _, h := range list.Holders {
			if h.Generation == d.generation.Load() {
				names = append(names, h.Names...)
			}
		}
		slices.Sort(names)
		if names = slices.Compact(names); len(names) == 0 {
			return 0, errNothingHeld
		}
	}
	return client.Drain(ctx, broker.DrainOptions{Before: d.generation.Load()}, names...)
}

// replaced reports that a newer deploy has replaced this one, and whether the broker has asked all of its workers to
// leave.
func (d *Deploy) replaced(ctx context.Context, before bool, each func(supervisor.DeployEvent)) {
	if before { // else it was reported when it happened
		each(supervisor.DeployEvent{Replaced: true})
	}
	if asked, all := d.asked(ctx); !all {
		d.config.Logger.Warn().Msg("the broker has not asked all workers to leave; asking them directly")
		each(supervisor.DeployEvent{Unasked: true, Asked: asked})
	}
}

// asked waits until the broker has asked all workers of this deploy to leave that it knows. It returns which it has
// asked, and whether no other one is left. There are others if that takes too long, because a broker without privileges
// may not signal another user's processes, and if the broker knows none of the workers, because it cannot follow
// processes of their pid namespace, or because the listener that they hold was unbound.
func (d *Deploy) asked(ctx context.Context) (asked []int, all bool) {
	client := d.client()
	defer client.Close()
	limited, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	begun := time.Now()
	for retry := new(backoff.Backoff); ; {
		list, err := client.List(limited)
		if err == nil {
			var serving bool
			asked, serving = d.known(list.Holders)
			unknown := d.hasUnknown(list.Holders)
			if !serving && (!unknown || time.Since(begun) > exitTime) {
				return asked, !unknown
			}
		}
		if retry.Wait(limited) != nil {
			return asked, ctx.Err() != nil
		}
	}
}

// known returns which processes the broker has asked to leave, and whether a worker of this deploy has not been asked.
func (d *Deploy) known(holders []protocol.Holder) (asked []int, serving bool) {
	for _, h := range holders {
		switch {
		case h.State == protocol.StateDraining && h.PID != 0:
			asked = append(asked, h.PID)
		case h.State == protocol.StateActive && h.Generation == d.generation.Load():
			serving = true
		}
	}
	return asked, serving
}

// hasUnknown reports whether a worker runs that the broker does not know as a holder. It may be wrong about a worker
// that exits just now. A worker that gets its sockets by itself may leave in its own time once it has given them back,
// so only those count whose listeners this deploy names: they hold them until they exit.
func (d *Deploy) hasUnknown(holders []protocol.Holder) bool {
	if len(d.config.Names) == 0 {
		return false
	}
	d.mu.Lock()
	workers := maps.Clone(d.workers)
	d.mu.Unlock()
	for _, h := range holders {
		_, worker := workers[h.PID]
		if delete(workers, h.PID); !worker && h.Generation == d.generation.Load() {
			return false // the broker has other numbers for the workers
		}
	}
	return len(workers) > 0
}
