//go:build linux

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
	"github.com/rs/zerolog"
)

// How often a broker is looked for where there is none.
const (
	lookMin = 10 * time.Millisecond
	lookMax = 250 * time.Millisecond
)

// BrokeredConfig says what a deploy is to a broker.
type BrokeredConfig struct {
	Socket  string   // path of the control socket; "": the default
	Names   []string // of the listeners; empty: whatever the workers get by themselves
	Replace bool     // asks who held them before to leave, once enough are ready
	Standby bool     // some of the workers are to wait for a place
	// SocketOf returns a duplicate of the socket that a process has open at an address,
	// which Brokered closes; nil: no worker's socket is offered to a broker that has
	// lost it.
	SocketOf func(pid int, network, address string) (*scmrights.FD, error)
	Logger   zerolog.Logger
}

// Brokered is the [Deploy] that a broker knows.
type Brokered struct {
	BrokeredConfig
	generation atomic.Int64
	ready      chan struct{}

	mu      sync.Mutex
	workers map[int]struct{}
}

// NewBrokered returns a deploy that begins when it is followed.
func NewBrokered(c BrokeredConfig) *Brokered {
	return &Brokered{BrokeredConfig: c, ready: make(chan struct{}, 1), workers: make(map[int]struct{})}
}

// Ready makes b replace older deploys, if that was asked for.
func (b *Brokered) Ready() {
	select {
	case b.ready <- struct{}{}:
	default:
	}
}

// Works notes which processes are workers.
func (b *Brokered) Works(pid int, works bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if works {
		b.workers[pid] = struct{}{}
	} else {
		delete(b.workers, pid)
	}
}

// Follow keeps the broker in the picture until ctx is done or a newer deploy has
// replaced this one. Where there is no broker it waits for one.
func (b *Brokered) Follow(ctx context.Context, each func(DeployEvent)) {
	ctx, cancel := context.WithCancel(ctx)
	replacing := make(chan struct{})
	go func() {
		defer close(replacing)
		b.replace(ctx)
	}()
	defer func() {
		cancel()
		<-replacing
	}()
	client := broker.Client{Socket: b.Socket}
	defer client.Close()
	missed := false
	for wait := lookMin; ; wait = min(2*wait, lookMax) {
		err := client.Deploy(ctx, broker.DeployOptions{
			Generation: b.generation.Load(),
			Joined: func(generation int64) {
				if missed {
					b.Logger.Info().Msg("the broker answers")
					b.offer(ctx)
				}
				wait, missed = lookMin, false
				b.joined(ctx, generation, each)
			},
			Replaced: func() { each(DeployEvent{Replaced: true}) },
		}, b.Names...)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil, errors.Is(err, broker.ErrReplaced):
			if err != nil { // it had happened already
				each(DeployEvent{Replaced: true})
			}
			if !b.allAsked(ctx) {
				b.Logger.Warn().Msg("the broker has not asked all workers to leave: they are asked from here")
				each(DeployEvent{Unasked: true})
			}
			return
		case errors.Is(err, broker.ErrNoBroker), errors.Is(err, broker.ErrLost):
		case b.generation.Load() != 0 && isInvalid(err):
			b.generation.Store(0) // a broker that knows nothing of the one before
			continue
		case b.generation.Load() == 0:
			each(DeployEvent{Err: err})
			return
		}
		if !missed {
			missed = true
			b.Logger.Warn().Err(err).Msg("waiting for the broker")
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// joined tells each of the deploy's generation. What cannot work is told instead.
func (b *Brokered) joined(ctx context.Context, generation int64, each func(DeployEvent)) {
	if b.generation.Load() == 0 && b.Standby && len(b.Names) > 0 {
		if err := b.checkPlaces(ctx); err != nil {
			each(DeployEvent{Err: err})
			return
		}
	}
	if b.generation.Swap(generation) != generation {
		each(DeployEvent{Generation: generation})
	}
}

// checkPlaces returns an error where nobody would ever be on standby.
func (b *Brokered) checkPlaces(ctx context.Context) error {
	client := broker.Client{Socket: b.Socket}
	defer client.Close()
	list, err := client.List(ctx)
	if err != nil {
		return nil // the next call will tell
	}
	bound := 0
	for _, l := range list.Listeners {
		if !slices.Contains(b.Names, l.Name) {
			continue
		}
		if l.Max > 0 {
			return nil
		}
		bound++
	}
	if bound < len(b.Names) {
		return nil // it may come with one
	}
	return fmt.Errorf("--standby: %q has places for any number of workers, so none would ever wait: bind it with max=N, as in --bind %s=ADDRESS,max=1", b.Names[0], b.Names[0])
}

func isInvalid(err error) bool {
	_, ok := errors.AsType[*protocol.InvalidParameterError](err)
	return ok
}

// errNothingHeld says that there is nothing to replace anybody at, yet: workers may be
// ready before they ask for a listener.
var errNothingHeld = errors.New("no worker of this deploy has asked for a listener yet, with the deploy's generation (" + GenerationEnv + ")")

// replace asks who held the listeners before to leave, once enough workers are ready.
func (b *Brokered) replace(ctx context.Context) {
	select {
	case <-b.ready:
	case <-ctx.Done():
		return
	}
	if !b.Replace {
		return
	}
	client := broker.Client{Socket: b.Socket}
	defer client.Close()
	patient := false
	for wait := lookMin; ; wait = min(2*wait, lookMax) {
		n, err := b.drain(ctx, &client)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			b.Logger.Info().Int("count", n).Msg("asked the workers of older deploys to leave")
			return
		case errors.Is(err, errNothingHeld):
			if !patient && wait == lookMax {
				patient = true
				b.Logger.Warn().Err(err).Msg("older deploys go on until then")
			}
		case errors.Is(err, broker.ErrUnasked):
			b.Logger.Warn().Err(err).Int("count", n).Msg("asked the workers of older deploys to leave, but for these: a run that has started them does")
			return
		case !errors.Is(err, broker.ErrNoBroker) && !errors.Is(err, broker.ErrLost):
			b.Logger.Error().Err(err).Msg("older deploys go on: they could not be asked to leave")
			return
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// drain asks the holders of what this deploy holds.
func (b *Brokered) drain(ctx context.Context, client *broker.Client) (int, error) {
	names := slices.Clone(b.Names) // what is appended is not for the caller to find
	if len(names) == 0 {
		list, err := client.List(ctx)
		if err != nil {
			return 0, err
		}
		for _, h := range list.Holders {
			for _, name := range h.Names {
				if h.Generation == b.generation.Load() && !slices.Contains(names, name) {
					names = append(names, name)
				}
			}
		}
		if len(names) == 0 {
			return 0, errNothingHeld
		}
	}
	return client.Drain(ctx, broker.DrainOptions{Before: b.generation.Load()}, names...)
}
