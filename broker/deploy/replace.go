package deploy

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/broker/supervisor"
	"github.com/fdbroker/fdbroker/internal/backoff"
	"github.com/fdbroker/fdbroker/protocol"
)

const (
	askTime     = 2 * time.Second        // for the broker to ask the workers of a replaced deploy to leave
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
				log.Warn().Err(err).Msg("older deploys go on until then")
			}
		case errors.Is(err, broker.ErrUnasked):
			log.Warn().Err(err).Int("count", n).Msg("asked the workers of older deploys to leave, but for these: a run that has started them does")
			return
		case !isAway(err):
			log.Error().Err(err).Msg("older deploys go on: they could not be asked to leave")
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

// replaced reports that a newer deploy has replaced this one, and whether the broker could
// ask all of its workers to leave.
func (d *Deploy) replaced(ctx context.Context, before bool, each func(supervisor.DeployEvent)) {
	if before { // else it was reported when it happened
		each(supervisor.DeployEvent{Replaced: true})
	}
	if !d.allAsked(ctx) {
		d.config.Logger.Warn().Msg("the broker has not asked all workers to leave: they are asked from here")
		each(supervisor.DeployEvent{Unasked: true})
	}
}

// allAsked waits until the broker has asked all workers of this deploy to leave, or none is left. It returns false if
// that takes too long: a broker without privileges may not signal another user's processes.
func (d *Deploy) allAsked(ctx context.Context) bool {
	client := d.client()
	defer client.Close()
	limited, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	serves := func(h protocol.Holder) bool {
		return h.Generation == d.generation.Load() && h.State == protocol.StateActive
	}
	for retry := new(backoff.Backoff); ; {
		list, err := client.List(limited)
		if err == nil && !slices.ContainsFunc(list.Holders, serves) {
			return true
		}
		if retry.Wait(limited) != nil {
			return ctx.Err() != nil
		}
	}
}
