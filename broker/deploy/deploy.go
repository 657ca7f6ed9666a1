// Package deploy makes the workers of a supervisor a deploy that a broker knows: it asks
// for a generation, replaces older deploys, says when a newer one has replaced it, and hands
// the workers' sockets back to a broker that has lost them.
//
// It may only call the broker and report to the supervisor. It never starts, signals or
// waits for a worker, and a broker that does not answer never delays the supervisor.
package deploy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/broker/supervisor"
	"github.com/fdbroker/fdbroker/internal/backoff"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// Config describes a deploy.
type Config struct {
	Socket  string   // path of the control socket; "": the default
	Names   []string // of the listeners; none: those that the workers get by themselves
	Replace bool     // asks the workers of older deploys to leave, once all of this one are ready
	Standby bool     // some of the workers are to wait for a place
	// SocketOf returns a duplicate of the socket that a process has open at an address,
	// which the Deploy closes; nil: no worker's socket is handed back.
	SocketOf func(pid int, network, address string) (*scmrights.FD, error)
	// DrainSignal asks a worker to leave whose socket was handed back, without "SIG"; "": none.
	DrainSignal string
	Logger      zerolog.Logger
}

// Deploy is a [supervisor.Deploy] that a broker knows.
type Deploy struct {
	config     Config
	generation atomic.Int64
	ready      chan struct{}

	mu      sync.Mutex
	workers map[int]struct{} // by pid
}

var _ supervisor.Deploy = (*Deploy)(nil)

// New returns a deploy that begins with Follow.
func New(c Config) *Deploy {
	return &Deploy{config: c, ready: make(chan struct{}, 1), workers: make(map[int]struct{})}
}

// Ready implements [supervisor.Deploy].
func (d *Deploy) Ready() {
	select {
	case d.ready <- struct{}{}:
	default:
	}
}

// client returns a client that the caller closes. So no connection stays open beside that of Follow.
func (d *Deploy) client() *broker.Client { return &broker.Client{Socket: d.config.Socket} }

// Works implements [supervisor.Deploy].
func (d *Deploy) Works(pid int, works bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if works {
		d.workers[pid] = struct{}{}
	} else {
		delete(d.workers, pid)
	}
}

// Follow implements [supervisor.Deploy]. As long as there is no broker it waits for one. It may be called once.
func (d *Deploy) Follow(ctx context.Context, each func(supervisor.DeployEvent)) {
	ctx, cancel := context.WithCancel(ctx)
	client := d.client()
	var replacing sync.WaitGroup
	replacing.Go(func() { d.replaceOlder(ctx) })
	defer func() {
		cancel()
		replacing.Wait()
		_ = client.Close()
	}()
	var retry backoff.Backoff
	for missed := false; ; {
		err := client.Deploy(ctx, broker.DeployOptions{
			Generation: d.generation.Load(),
			Joined: func(generation int64) {
				if missed {
					d.config.Logger.Info().Msg("the broker answers")
					d.handBack(ctx, generation)
				}
				retry.Last, missed = 0, false
				d.joined(ctx, generation, each)
			},
			Replaced: func() { each(supervisor.DeployEvent{Replaced: true}) },
			Roll:     func() { each(supervisor.DeployEvent{Roll: true}) },
		}, d.config.Names...)
		_, invalid := errors.AsType[*protocol.InvalidParameterError](err)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil, errors.Is(err, broker.ErrReplaced):
			d.replaced(ctx, err != nil, each)
			return
		case isAway(err):
		case d.generation.Load() != 0 && invalid:
			d.generation.Store(0) // this broker knows nothing of the one before
			continue
		case d.generation.Load() == 0:
			each(supervisor.DeployEvent{Err: err})
			return
		}
		if !missed {
			missed = true
			d.logMissed(err)
		}
		_ = retry.Wait(ctx)
	}
}

// logMissed logs that there is no broker, which is no reason to worry if there was one: it is usually restarted.
func (d *Deploy) logMissed(err error) {
	if d.generation.Load() != 0 {
		d.config.Logger.Info().Err(err).Msg("lost the broker; workers keep serving, reconnecting")
		return
	}
	d.config.Logger.Warn().Err(err).Msg("waiting for the broker")
}

// isAway reports whether err means that there is no broker for now.
func isAway(err error) bool {
	return errors.Is(err, broker.ErrNoBroker) || errors.Is(err, broker.ErrLost)
}

// joined reports the deploy's generation, or why it cannot work.
func (d *Deploy) joined(ctx context.Context, generation int64, each func(supervisor.DeployEvent)) {
	if d.generation.Load() == 0 && d.config.Standby && len(d.config.Names) > 0 {
		if err := d.checkPlaces(ctx); err != nil {
			each(supervisor.DeployEvent{Err: err})
			return
		}
	}
	if d.generation.Swap(generation) != generation {
		each(supervisor.DeployEvent{Generation: generation})
	}
}

// checkPlaces returns an error if no worker could ever be on standby.
func (d *Deploy) checkPlaces(ctx context.Context) error {
	client := d.client()
	defer client.Close()
	list, _ := client.List(ctx) // the next call returns the error
	bound := 0
	for _, l := range list.Listeners {
		if !slices.Contains(d.config.Names, l.Name) {
			continue
		}
		if l.Max > 0 {
			return nil
		}
		bound++
	}
	if bound < len(d.config.Names) {
		return nil // a listener that is not bound yet may have a maximum
	}
	name := d.config.Names[0]
	return fmt.Errorf("--standby: %q has places for any number of workers, so none would ever wait: bind it with max=N, as in --bind %s=ADDRESS,max=1", name, name)
}

// errNoSocket says that no worker has the socket that a broker lacks.
var errNoSocket = errors.New("no worker has it")

// handBack hands the workers' sockets back to a broker that has started with nothing. It is
// for workers that do not know of brokers; those of the package broker do it themselves.
func (d *Deploy) handBack(ctx context.Context, generation int64) {
	if d.config.SocketOf == nil {
		return
	}
	client := d.client()
	defer client.Close()
	list, _ := client.List(ctx) // after an error it is empty
	for _, name := range d.config.Names {
		if slices.ContainsFunc(list.Listeners, func(l protocol.Listener) bool { return l.Name == name }) {
			continue // the broker would refuse the socket, and log that
		}
		err := client.Attach(ctx, name, func(network, address string) (broker.HandBack, error) {
			found, err := d.socket(network, address)
			found.DrainSignal, found.Generation = d.config.DrainSignal, generation
			return found, err
		})
		switch {
		case err == nil:
			d.config.Logger.Info().Str("name", name).Msg("gave the broker a worker's socket back")
		case errors.Is(err, broker.ErrBindFailed), errors.Is(err, errNoSocket):
			d.config.Logger.Warn().Err(err).Str("name", name).Msg("the broker lacks a socket that the workers cannot give back")
		} // otherwise the broker does not want it
	}
}

// socket returns a duplicate of the socket that the workers have open at an address, and those that have it.
func (d *Deploy) socket(network, address string) (found broker.HandBack, err error) {
	d.mu.Lock()
	pids := slices.Sorted(maps.Keys(d.workers))
	d.mu.Unlock()
	errs := []error{errNoSocket}
	for _, pid := range pids {
		fd, err := d.config.SocketOf(pid, network, address)
		switch {
		case err != nil:
			errs = append(errs, err)
			continue
		case found.FD == nil:
			found.FD = fd
		case inodeOf(fd) != inodeOf(found.FD): // that of an earlier listener of the name
			_ = fd.Close()
			continue
		default:
			_ = fd.Close()
		}
		found.Holders = append(found.Holders, pid)
	}
	if found.FD == nil {
		return found, errors.Join(errs...)
	}
	return found, nil
}

// inodeOf returns the number of a socket's inode, which tells it from all others that are open.
func inodeOf(fd *scmrights.FD) (inode uint64) {
	_ = fd.Control(func(n uintptr) {
		var st unix.Stat_t
		if unix.Fstat(int(n), &st) == nil {
			inode = st.Ino
		}
	})
	return inode
}
