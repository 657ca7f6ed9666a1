//go:build linux

package main

import (
	"context"
	"fmt"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/spf13/pflag"
)

var bindVerb = verb{
	name:  "bind",
	usage: "bind NAME=ADDRESS[,OPTION[=VALUE]]...",
	help: `Binds listeners, all or none, and prints each with what was really bound. A name
that is bound already with the same spec is left as it is. Only root and the user
that the broker runs as may do this. 'fdbroker --help' shows addresses and options.

  fdclient bind web=:9000 adm=127.0.0.1:9001,backlog=16
`,
	define: defineBind,
	failed: exitFailed,
	wrong:  exitUsage,
}

func defineBind(*pflag.FlagSet) action {
	return func(ctx context.Context, c command) error {
		if len(c.args) == 0 {
			return usagef("no listener: give NAME=ADDRESS")
		}
		client := broker.Client{Socket: c.socket}
		defer client.Close()
		bound, err := client.Bind(ctx, c.args...)
		for _, l := range bound {
			fmt.Fprintln(c.out, l.Name, l.Network, l.Address)
		}
		return err
	}
}

var unbindVerb = verb{
	name:  "unbind",
	usage: "unbind NAME...",
	help: `Closes listeners, all or none. Who holds one goes on accepting on it; its address
is free once the last of them has gone. Only root and the user that the broker
runs as may do this.
`,
	define: defineUnbind,
	failed: exitFailed,
	wrong:  exitUsage,
	words:  otherNames,
}

func defineUnbind(*pflag.FlagSet) action {
	return func(ctx context.Context, c command) error {
		if len(c.args) == 0 {
			return usagef("no name")
		}
		client := broker.Client{Socket: c.socket}
		defer client.Close()
		return client.Unbind(ctx, c.args...)
	}
}
