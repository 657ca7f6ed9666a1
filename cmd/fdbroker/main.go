//go:build linux

// Command fdbroker owns named listening sockets and hands duplicates of them to
// whoever asks at its control socket. See "fdbroker --help".
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

// gcPercent is how much garbage, in percent of what lives, may be there before it is
// collected. What lives is small and lives long, so that memory is saved where
// the default of 100 would save time.
const gcPercent = 25

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	// A crash ends by a signal, and not by Go's status 2, which is that of wrong usage:
	// a service manager does not start that again.
	debug.SetTraceback("crash")
	// A log that nobody reads any more must not end the broker.
	signal.Ignore(syscall.SIGPIPE)
	self := findSelf()
	self.rename()
	if wantsKeeper(os.Args[1:], os.Getenv) {
		os.Exit(keep(self))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	if !self.kept {
		context.AfterFunc(ctx, stop) // a second signal kills at once; under a keeper it is that which kills
	}
	// Heard from the start, so that a terminal that is closed never ends the broker.
	in := inputs{self: self, hangups: make(chan os.Signal, 1), upgrades: make(chan os.Signal, 1)}
	signal.Notify(in.hangups, syscall.SIGHUP)
	signal.Notify(in.upgrades, syscall.SIGUSR2)
	os.Exit(run(ctx, os.Args[1:], in, os.Stdout, os.Stderr))
}
