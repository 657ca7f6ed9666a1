package main

import (
	"context"
	"fmt"

	"github.com/fdbroker/fdbroker/protocol"
)

var reloadVerb = verb{
	name:  "reload",
	usage: "reload",
	help: `Makes the broker read its --config file again, and prints what that has changed: a
line for each listener that was bound, unbound or changed. Where one of the specs
is wrong or cannot be bound, nothing changes. What was bound with 'fdclient bind'
stays. Only root and the user that the broker runs as may do this.
`,
	act:   reload,
	takes: nothing,
}

func reload(ctx context.Context, c command) error {
	changes, err := c.client.Reload(ctx)
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
