// Command fdbroker owns named listening sockets and hands duplicates of them to any process
// that asks at its control socket. See "fdbroker --help".
//
// Main decides whether this process is a keeper (keeper.go), which starts another one, or the broker itself
// (daemon.go). This package only reads the command line, the environment and the configuration file, and wires
// broker/server, broker/keeper and the service manager. It touches no listener.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/activation"
	"github.com/fdbroker/fdbroker/internal/cli"
	"github.com/fdbroker/fdbroker/internal/logging"
)

// gcPercent is how much garbage, in percent of the live heap, may be there before it is collected. The broker's objects
// are few and live long, so a lower value than the default of 100 saves memory and costs little time.
const gcPercent = 25

// inputs is the input of the command, without its arguments.
type inputs struct {
	self     self
	chosen   string         // the store that --store means; "": its keeper has started this process
	hangups  chan os.Signal // SIGHUP
	upgrades chan os.Signal // SIGUSR2
}

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	// A crash ends this process by a signal, not with Go's status 2: a service manager does
	// not start a service again after 2, which is wrong usage.
	debug.SetTraceback("crash")
	signal.Ignore(syscall.SIGPIPE) // a closed log must not end the broker
	self := findSelf()
	self.rename()
	o, wants := self.wantsKeeper(os.Args[1:])
	if wants {
		os.Exit(keep(self, o))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	if !self.kept {
		context.AfterFunc(ctx, stop) // a second signal kills at once; under a keeper, the keeper does that
	}
	// From the start, so that a closed terminal never ends the broker.
	in := inputs{self: self, chosen: o.store, hangups: make(chan os.Signal, 1), upgrades: make(chan os.Signal, 1)}
	signal.Notify(in.hangups, syscall.SIGHUP)
	signal.Notify(in.upgrades, syscall.SIGUSR2)
	os.Exit(run(ctx, os.Args[1:], in, os.Stdout, os.Stderr))
}

// run is the broker's command: it returns the exit status.
func run(ctx context.Context, args []string, in inputs, stdout, stderr io.Writer) int {
	o, err := parse(args, stdout)
	switch {
	case errors.Is(err, errDone):
		return cli.OK
	case err != nil:
		cli.Complain(stderr, "fdbroker", err)
		fmt.Fprintln(stderr, "Try 'fdbroker --help'.")
		return cli.Usage
	}
	config, err := configure(o.binds, o.config)
	if err == nil && len(config.listeners) > o.server.MaxNames {
		err = fmt.Errorf("%d listeners, and --max-names is %d", len(config.listeners), o.server.MaxNames)
	}
	if o.check {
		return check(config.listeners, o.control, err, stdout, stderr)
	}
	foreign, owner := activation.Foreign()
	passed, perr := takePassed()
	switch {
	case perr != nil:
		cli.Complain(stderr, "fdbroker", perr)
		return cli.Failed
	case err != nil && len(passed.stored) == 0:
		passed.close()
		cli.Complain(stderr, "fdbroker", err)
		return cli.Usage
	}
	log, lines := logging.New(stderr, o.logFlags.Level, o.logFlags.Format)
	warnForeign(log, foreign, owner)
	d := &daemon{options: o, inputs: in, log: log, passed: passed, configuration: config, configErr: err}
	err = d.run(ctx)
	lines.Close()
	if err == nil && d.next != nil {
		err = d.next()
	}
	if err != nil {
		cli.Complain(stderr, "fdbroker", err)
		return cli.Failed
	}
	return cli.OK
}

// check is --check: it prints what would be bound, or err.
func check(listeners []spec.Spec, control server.ControlConfig, err error, stdout, stderr io.Writer) int {
	if err == nil {
		err = checkLayout()
	}
	if err == nil && os.Getenv(layoutEnv) == "" {
		err = spec.CheckConflicts(listeners)
	}
	if err != nil {
		cli.Complain(stderr, "fdbroker", err)
		return cli.Usage
	}
	for _, spec := range listeners {
		fmt.Fprintln(stdout, spec)
	}
	if os.Getenv(layoutEnv) == "" {
		warnOf(listeners, stderr)
		if what := shutOut(listeners, control); what != "" {
			cli.Complain(stderr, "fdbroker", errors.New("warning: "+what))
		}
	}
	return cli.OK
}

// warnOf prints what keeps a start here and now from binding listeners, or from giving them all that they ask for. That
// is no error: the configuration may be for another machine, or for later.
func warnOf(listeners []spec.Spec, stderr io.Writer) {
	for _, spec := range listeners {
		if err := socket.Foresee(spec); err != nil {
			cli.Complain(stderr, "fdbroker", fmt.Errorf("warning: a start would fail: %w", err))
			continue
		}
		for _, what := range socket.Shortfalls(spec) {
			cli.Complain(stderr, "fdbroker", fmt.Errorf("warning: %s: %s", spec.Name, what))
		}
	}
}
