package main

import (
	"context"
	"fmt"
)

var bindVerb = verb{
	name:  "bind",
	usage: "bind NAME=ADDRESS[,OPTION[=VALUE]]...",
	help: `Binds listeners, all or none, and prints each with what was really bound. A name
that is bound already with the same spec is left as it is. Only root and the user
that the broker runs as may do this. 'fdbroker --help' shows addresses and options.

  fdclient bind web=:9000 adm=127.0.0.1:9001,backlog=16
`,
	act:   bind,
	takes: some("no listener: give NAME=ADDRESS"),
}

func bind(ctx context.Context, c command) error {
	bound, err := c.client.Bind(ctx, c.args...)
	for _, l := range bound {
		fmt.Fprintln(c.out, l.Name, l.Network, l.Address)
	}
	return err
}

var unbindVerb = verb{
	name:  "unbind",
	usage: "unbind NAME...",
	help: `Closes listeners, all or none. Who holds one goes on accepting on it; its address
is free once the last of them has gone. Only root and the user that the broker
runs as may do this.
`,
	act:   unbind,
	takes: some("no name"),
	words: otherNames,
}

func unbind(ctx context.Context, c command) error {
	return c.client.Unbind(ctx, c.args...)
}
