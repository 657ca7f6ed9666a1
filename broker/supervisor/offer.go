//go:build linux

package supervisor

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/scmrights"
)

// errNoSocket says that none of the workers has the socket that a broker lacks.
var errNoSocket = errors.New("no worker has it")

// offer gives a broker that has started with nothing the sockets it lacks, from the
// workers. It is for those who know nothing of brokers: others offer theirs themselves.
func (b *Brokered) offer(ctx context.Context) {
	if b.SocketOf == nil {
		return
	}
	client := broker.Client{Socket: b.Socket}
	defer client.Close()
	has := make(map[string]bool) // what it has it would refuse, and log that
	if list, err := client.List(ctx); err == nil {
		for _, l := range list.Listeners {
			has[l.Name] = true
		}
	}
	for _, name := range b.Names {
		if has[name] {
			continue
		}
		err := client.Attach(ctx, name, b.find)
		switch {
		case err == nil:
			b.Logger.Info().Str("name", name).Msg("gave the broker a worker's socket back")
		case errors.Is(err, broker.ErrBindFailed), errors.Is(err, errNoSocket):
			b.Logger.Warn().Err(err).Str("name", name).Msg("the broker lacks a socket that the workers cannot give back")
		} // else it is not wanted
	}
}

// find returns a duplicate of the socket that a worker has open at an address.
func (b *Brokered) find(network, address string) (*scmrights.FD, error) {
	b.mu.Lock()
	pids := slices.Collect(maps.Keys(b.workers))
	b.mu.Unlock()
	errs := []error{errNoSocket}
	for _, pid := range pids {
		fd, err := b.SocketOf(pid, network, address)
		if err == nil {
			return fd, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}
