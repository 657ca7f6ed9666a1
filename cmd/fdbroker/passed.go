//go:build linux

package main

import (
	"errors"
	"fmt"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/internal/activation"
)

// passedSockets returns the sockets that a service manager has passed, each by a
// name that a listener can have and no other has; the caller must close them.
func passedSockets() ([]server.Passed, error) {
	all, err := activation.Take()
	if err != nil {
		return nil, err
	}
	const help = "(with systemd, each socket needs a .socket unit of its own with FileDescriptorName=NAME)"
	var errs []error
	passed := make([]server.Passed, len(all))
	first := make(map[string]int)
	for i, p := range all {
		passed[i] = server.Passed{Name: p.Name, FD: p.FD}
		if n, twice := first[p.Name]; twice {
			errs = append(errs, fmt.Errorf("LISTEN_FDNAMES: descriptors %d and %d are both called %q %s", n, p.Number, p.Name, help))
		} else if err := socket.CheckName(p.Name); err != nil {
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
