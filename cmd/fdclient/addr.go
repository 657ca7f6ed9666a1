//go:build linux

package main

import (
	"context"
	"fmt"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/spf13/pflag"
)

var addrVerb = verb{
	name:  "addr",
	usage: "addr NAME",
	help: `Prints the address that a listener is bound to, such as 127.0.0.1:9000 or
/run/app.sock: what was really bound, where the spec left something open.
`,
	define: defineAddr,
	failed: exitFailed,
	wrong:  exitUsage,
	words:  oneName,
}

func defineAddr(*pflag.FlagSet) action {
	return func(ctx context.Context, c command) error {
		if len(c.args) != 1 {
			return usagef("give one name")
		}
		client := broker.Client{Socket: c.socket}
		defer client.Close()
		list, err := listOf(ctx, &client)
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
}
