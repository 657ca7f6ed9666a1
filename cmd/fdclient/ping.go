package main

import (
	"context"
	"fmt"

	"github.com/fdbroker/fdbroker/internal/version"
	"github.com/fdbroker/fdbroker/protocol"
)

var pingVerb = verb{
	name:  "ping",
	usage: "ping",
	help:  "Says which broker answers, with exit status 0, or that none does within 5 s, with 1.\n",
	act:   ping,
	takes: nothing,
}

func ping(ctx context.Context, c command) error {
	var info protocol.Info
	err := inTime(ctx, func(ctx context.Context) (err error) {
		info, err = c.client.Info(ctx)
		return err
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(c.out, protocol.Printable(info.Product), protocol.Printable(info.Version), "answers")
	return err
}

var versionVerb = verb{
	name:  "version",
	usage: "version",
	help:  "Prints the version of fdclient; 'fdclient ping' tells the broker's.\n",
	act:   showVersion,
	takes: nothing,
}

func showVersion(_ context.Context, c command) error {
	_, err := fmt.Fprintln(c.out, "fdclient", version.Number)
	return err
}
