//go:build linux

package main

import (
	"context"
	"fmt"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/version"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/spf13/pflag"
)

var pingVerb = verb{
	name:   "ping",
	usage:  "ping",
	help:   "Says which broker answers, with exit status 0, or that none does, with 1.\n",
	define: definePing,
	failed: exitFailed,
	wrong:  exitUsage,
}

func definePing(*pflag.FlagSet) action {
	return func(ctx context.Context, c command) error {
		if len(c.args) > 0 {
			return usagef("unexpected argument %q", c.args[0])
		}
		client := broker.Client{Socket: c.socket}
		defer client.Close()
		info, err := client.Info(ctx)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(c.out, protocol.Printable(info.Product), protocol.Printable(info.Version), "answers")
		return err
	}
}

var versionVerb = verb{
	name:   "version",
	usage:  "version",
	help:   "Prints the version of fdclient; 'fdclient ping' tells the broker's.\n",
	define: defineVersion,
	failed: exitFailed,
	wrong:  exitUsage,
}

func defineVersion(*pflag.FlagSet) action {
	return func(_ context.Context, c command) error {
		if len(c.args) > 0 {
			return usagef("unexpected argument %q", c.args[0])
		}
		_, err := fmt.Fprintln(c.out, "fdclient", version.Number)
		return err
	}
}
