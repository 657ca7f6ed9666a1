package main

import (
	"context"
	"fmt"

	"github.com/fdbroker/fdbroker/internal/cli"
	"github.com/fdbroker/fdbroker/protocol"
)

// The verbs that are one call, without flags.
var (
	pingVerb = verb{
		usage: "ping",
		help:  "Prints which broker answers. If none does within 5 s, the exit status is 1.\n",
		act:   ping,
	}
	versionVerb = verb{
		usage: "version",
		help:  "Prints the version of fdclient; 'fdclient ping' prints the broker's.\n",
		act:   showVersion,
	}
	addrVerb = verb{
		usage: "addr NAME",
		help: `Prints the address that a listener is bound to, such as 127.0.0.1:9000 or
/run/app.sock. It is the address in use: for port 0, it has the port that was chosen.
`,
		act:   addr,
		takes: arguments{1, 1, "addr takes exactly one name"},
		words: otherNames,
	}
	bindVerb = verb{
		usage: "bind NAME=ADDRESS[,OPTION[=VALUE]]...",
		help: `Binds listeners, all or none, and prints each with its address. A name that is already
bound with the same spec is left as it is. The listeners stay until the broker is
stopped. They are not in its configuration file: 'fdclient list --specs' prints a
configuration that includes them. Only root and the user that the broker runs as may do
this. 'fdbroker --help' shows addresses and options.

  fdclient bind web=:9000 adm=127.0.0.1:9001,backlog=16
`,
		act:   bind,
		takes: arguments{1, many, "name at least one listener, as NAME=ADDRESS"},
	}
	unbindVerb = verb{
		usage: "unbind NAME...",
		help: `Closes listeners, all or none. Processes that hold one keep accepting on it. The
address is free once the last one exits; unbind lists the processes that still have the
socket, including those that inherited it. Only root and the user that the broker runs
as may do this.
`,
		act:   unbind,
		takes: arguments{1, many, "name at least one listener"},
		words: otherNames,
	}
)

func ping(ctx context.Context, c command) error {
	info, err := inTime(ctx, c.client.Info)
	if err == nil {
		_, err = fmt.Fprintln(c.out, protocol.Printable(info.Product), protocol.Printable(info.Version), "answers")
	}
	return err
}

func showVersion(_ context.Context, c command) error {
	_, err := fmt.Fprintln(c.out, "fdclient", cli.Version)
	return err
}

func addr(ctx context.Context, c command) error {
	list, err := inTime(ctx, c.client.List)
	if err != nil {
		return err
	}
	for _, l := range list.Listeners {
		if l.Name == c.args[0] {
			_, err := fmt.Fprintln(c.out, l.Address)
			return err
		}
	}
	return unknownName(c.args[0], list)
}

func bind(ctx context.Context, c command) error {
	bound, err := c.client.Bind(ctx, c.args...)
	for _, l := range bound {
		_ = c.printBound(l)
	}
	return err
}
