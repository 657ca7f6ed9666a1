//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/fdbroker/fdbroker/internal/activation"
	"github.com/fdbroker/fdbroker/internal/logging"
	"github.com/fdbroker/fdbroker/protocol"
)

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// inputs is what reaches the command besides its arguments.
type inputs struct {
	self     self
	hangups  chan os.Signal // SIGHUP
	upgrades chan os.Signal // SIGUSR2
}

// run is the command: it returns the exit status.
func run(ctx context.Context, args []string, in inputs, stdout, stderr io.Writer) int {
	o, err := parse(args, stdout)
	switch {
	case errors.Is(err, errDone):
		return exitOK
	case err != nil:
		complain(stderr, err)
		fmt.Fprintln(stderr, "Try 'fdbroker --help'.")
		return exitUsage
	}
	listeners, err := specs(o.binds, o.config)
	if err == nil && len(listeners) > o.server.MaxNames {
		err = fmt.Errorf("%d listeners, and --max-names is %d", len(listeners), o.server.MaxNames)
	}
	if o.check && err == nil {
		err = checkLayout(os.Getenv)
	}
	if o.check && err == nil {
		for _, spec := range listeners {
			fmt.Fprintln(stdout, spec)
		}
		return exitOK
	}
	if o.check {
		complain(stderr, err)
		return exitUsage
	}
	strays := activation.FindStrays()
	passed, perr := takePassed()
	if perr != nil {
		complain(stderr, perr)
		return exitFailed
	}
	if err != nil && len(passed.stored) == 0 {
		passed.close()
		complain(stderr, err)
		return exitUsage
	}
	log, lines := logging.New(stderr, o.level, o.format)
	tellStrays(log, strays)
	b := &running{options: o, inputs: in, log: log, passed: passed, listeners: listeners, wrong: err}
	err = b.run(ctx)
	lines.Close()
	if err == nil && b.next != nil {
		err = b.next()
	}
	if err != nil {
		complain(stderr, err)
		return exitFailed
	}
	return exitOK
}

// complain prints an error, each of its lines as one of this command's. Names of
// processes are in it, which others have chosen.
func complain(w io.Writer, err error) {
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintf(w, "fdbroker: %s\n", protocol.Printable(line))
	}
}
