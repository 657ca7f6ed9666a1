package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/cli"
	"github.com/fdbroker/fdbroker/protocol"
)

// complain prints an error, with advice if there is any.
func complain(w io.Writer, err error) {
	cli.Complain(w, "fdclient", err)
	switch {
	case errors.Is(err, broker.ErrNoBroker) && errors.Is(err, fs.ErrPermission):
		fmt.Fprintln(w, "Who may connect is decided by fdbroker's --socket-mode and --socket-group.")
	case errors.Is(err, broker.ErrNoBroker):
		fmt.Fprintf(w, "Start one with: fdbroker %s--bind web=:9000      (or name its socket with --socket or FDBROKER_SOCKET)\n", socketFlag(err))
	}
}

// socketFlag returns the flag that makes a broker listen at the path at which fdclient has looked, or nothing if that
// is the default.
func socketFlag(err error) string {
	none, ok := errors.AsType[*broker.NoBrokerError](err)
	if !ok || len(none.Paths) != 1 {
		return ""
	}
	getenv := func(name string) string {
		if name == protocol.SocketEnv {
			return ""
		}
		return os.Getenv(name)
	}
	if path, err := protocol.ListenPath(os.Geteuid(), getenv); err == nil && path == none.Paths[0] {
		return ""
	}
	return "--socket " + protocol.Printable(none.Paths[0]) + " "
}
