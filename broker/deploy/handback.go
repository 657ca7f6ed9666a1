package deploy

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// errNoSocket says that no worker has the socket that a broker lacks.
var errNoSocket = errors.New("no worker has it")

// handBack hands the workers' sockets back to a broker that has started with nothing. It is
// for workers that do not know of brokers; those of the package broker do it themselves.
func (d *Deploy) handBack(ctx context.Context) {
	if d.config.SocketOf == nil {
		return
	}
	list, _ := d.client.List(ctx) // after an error it is empty
	for _, name := range d.config.Names {
		if slices.ContainsFunc(list.Listeners, func(l protocol.Listener) bool { return l.Name == name }) {
			continue // the broker would refuse the socket, and log that
		}
		err := d.client.Attach(ctx, name, d.socket)
		switch {
		case err == nil:
			d.config.Logger.Info().Str("name", name).Msg("gave the broker a worker's socket back")
		case errors.Is(err, broker.ErrBindFailed), errors.Is(err, errNoSocket):
			d.config.Logger.Warn().Err(err).Str("name", name).Msg("the broker lacks a socket that the workers cannot give back")
		} // otherwise the broker does not want it
	}
}

// socket returns a duplicate of the socket that one of the workers has open at an address.
func (d *Deploy) socket(network, address string) (*scmrights.FD, error) {
	d.mu.Lock()
	pids := slices.Collect(maps.Keys(d.workers))
	d.mu.Unlock()
	errs := []error{errNoSocket}
	for _, pid := range pids {
		fd, err := d.config.SocketOf(pid, network, address)
		if err == nil {
			return fd, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}
