//go:build linux

package main

import (
	"context"
	"fmt"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/spf13/pflag"
)

var reloadVerb = verb{
	name:  "reload",
	usage: "reload",
	help: `Makes the broker read its --config file again, and prints what that has changed: a
line for each listener that was bound, unbound or changed. Where one of the specs
is wrong or cannot be bound, nothing changes. What was bound with 'fdclient bind'
stays. Only root and the user that the broker runs as may do this.
`,
	define: defineReload,
	failed: exitFailed,
	wrong:  exitUsage,
}

func defineReload(*pflag.FlagSet) action {
	return func(ctx context.Context, c command) error {
		if len(c.args) > 0 {
			return usagef("unexpected argument %q", c.args[0])
		}
		client := broker.Client{Socket: c.socket}
		defer client.Close()
		changes, err := client.Reload(ctx)
		for _, what := range []struct {
			word  string
			names []string
		}{{"bound", changes.Bound}, {"unbound", changes.Unbound}, {"changed", changes.Changed}} {
			for _, name := range what.names {
				fmt.Fprintln(c.out, what.word, protocol.Printable(name))
			}
		}
		return err
	}
}
