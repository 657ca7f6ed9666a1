package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/fdbroker/fdbroker/broker/keeper"
	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/activation"
	"github.com/rs/zerolog"
)

// passed is the descriptors that this process was passed. The owner must close it.
type passed struct {
	sockets []server.Passed // under names that are valid for listeners, each once
	stored  []server.Passed // of an earlier broker
	keeper  *os.File        // the end of the socket pair with the keeper, for notify.Over; nil: there is no keeper
}

func (p passed) close() {
	closePassed(p.sockets)
	closePassed(p.stored)
	_ = p.keeper.Close() // nil fails
}

// takePassed takes the descriptors that this process was passed.
func takePassed() (p passed, err error) {
	all, err := activation.Take()
	if err != nil {
		return p, err
	}
	var sockets []activation.Passed
	for _, d := range all {
		switch {
		case d.Name == keeper.StoreName && p.keeper == nil:
			p.keeper, err = d.FD.File("keeper")
		case server.IsStored(d.Name):
			p.stored = append(p.stored, server.Passed{Name: d.Name, FD: d.FD})
		default:
			sockets = append(sockets, d)
		}
	}
	named, nerr := namedSockets(sockets)
	p.sockets = named
	if err = errors.Join(err, nerr); err != nil {
		p.close()
		p = passed{}
	}
	return p, err
}

// warnForeign says why passed sockets are not used, if there are such.
func warnForeign(log zerolog.Logger, f activation.Foreign) {
	if f.Sockets > 0 {
		log.Warn().Str("listen_pid", f.PID).Int("pid", os.Getpid()).Int("count", f.Sockets).
			Msg("sockets were passed to another process (LISTEN_PID) and are not used here: start fdbroker directly, or by exec where a shell starts it")
	}
}

// namedSockets checks the names of sockets that a service manager has passed. It takes
// the sockets, and the caller must close the result.
func namedSockets(all []activation.Passed) ([]server.Passed, error) {
	const help = "(with systemd, each socket needs a .socket unit of its own with FileDescriptorName=NAME)"
	var errs []error
	passed := make([]server.Passed, len(all))
	first := make(map[string]int)
	for i, p := range all {
		passed[i] = server.Passed{Name: p.Name, FD: p.FD}
		if n, twice := first[p.Name]; twice {
			errs = append(errs, fmt.Errorf("LISTEN_FDNAMES: descriptors %d and %d are both called %q %s", n, p.Number, p.Name, help))
		} else if err := spec.CheckName(p.Name); err != nil {
			errs = append(errs, fmt.Errorf("LISTEN_FDNAMES: descriptor %d: %w %s", p.Number, err, help))
		}
		first[p.Name] = p.Number
	}
	if len(errs) > 0 {
		closePassed(passed)
		return nil, errors.Join(errs...)
	}
	return passed, nil
}

func closePassed(passed []server.Passed) {
	for _, p := range passed {
		_ = p.FD.Close()
	}
}
