//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/protocol"
)

// complain prints an error, and behind it what to do where that is known. Names of
// processes may be in it, which others have chosen.
func complain(w io.Writer, err error) {
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintf(w, "fdclient: %s\n", protocol.Printable(line))
	}
	switch {
	case errors.Is(err, broker.ErrNoBroker) && errors.Is(err, fs.ErrPermission):
		fmt.Fprintln(w, "Who may connect is decided by fdbroker's --socket-mode and --socket-group.")
	case errors.Is(err, broker.ErrNoBroker):
		fmt.Fprintln(w, "Start one with: fdbroker --bind web=:9000      (or name its socket with --socket or FDBROKER_SOCKET)")
	}
}
