//go:build linux

package main

import (
	"context"
	"fmt"

	"github.com/fdbroker/fdbroker/protocol"
)

var addrVerb = verb{
	name:  "addr",
	usage: "addr NAME",
	help: `Prints the address that a listener is bound to, such as 127.0.0.1:9000 or
/run/app.sock: what was really bound, where the spec left something open.
`,
	act:   addr,
	takes: one("give one name"),
	words: oneName,
}

func addr(ctx context.Context, c command) error {
	list, err := listOf(ctx, c.client)
	if err != nil {
		return err
	}
	unknown := protocol.UnknownNameError{Name: c.args[0]}
	for _, l := range list.Listeners {
		if l.Name == c.args[0] {
			_, err := fmt.Fprintln(c.out, l.Address)
			return err
		}
		unknown.Names = append(unknown.Names, l.Name)
	}
	return &unknown
}
