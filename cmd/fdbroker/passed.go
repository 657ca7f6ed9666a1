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

// takePassed takes the descriptors that this process was passed, and checks the names of sockets.
func takePassed() (p passed, err error) {
	const help = "(with systemd, each socket needs a .socket unit of its own with FileDescriptorName=NAME)"
	all, err := activation.Take()
	first := make(map[string]int)
	for _, d := range all {
		switch n, twice := first[d.Name]; {
		case d.Name == keeper.StoreName && p.keeper == nil:
			var kerr error
			p.keeper, kerr = d.FD.File("keeper")
			err = errors.Join(err, kerr)
			continue
		case server.IsStored(d.Name):
			p.stored = append(p.stored, server.Passed{Name: d.Name, FD: d.FD})
			continue
		case twice:
			err = errors.Join(err,
				fmt.Errorf("LISTEN_FDNAMES: descriptors %d and %d are both called %q %s", n, d.Number, d.Name, help))
		default:
			if cerr := spec.CheckName(d.Name); cerr != nil {
				err = errors.Join(err, fmt.Errorf("LISTEN_FDNAMES: descriptor %d: %w %s", d.Number, cerr, help))
			}
		}
		first[d.Name] = d.Number
		p.sockets = append(p.sockets, server.Passed{Name: d.Name, FD: d.FD})
	}
	if err != nil {
		p.close()
		p = passed{}
	}
	return p, err
}

// warnForeign says why passed sockets are not used, if there are such.
func warnForeign(log zerolog.Logger, sockets int, pid string) {
	if sockets > 0 {
		log.Warn().Str("listen_pid", pid).Int("pid", os.Getpid()).Int("count", sockets).
			Msg("sockets were passed to another process (LISTEN_PID) and are not used: start fdbroker directly, or with exec if a shell starts it")
	}
}

func closePassed(passed []server.Passed) {
	for _, p := range passed {
		_ = p.FD.Close()
	}
}
