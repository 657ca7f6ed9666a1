//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/spf13/pflag"
)

var watchVerb = verb{
	name:  "watch",
	usage: "watch [--json]",
	help: `Prints what happens at the broker, an event a line, until it is interrupted:
listeners bound and unbound, grants made and ended and why, calls refused, harm to
sockets undone. Only root and the user that the broker runs as may watch. When more
happens than can be printed, that is the last event, and the exit status is 1.
`,
	define: defineWatch,
	failed: exitFailed,
	wrong:  exitUsage,
}

func defineWatch(fs *pflag.FlagSet) action {
	asJSON := fs.Bool("json", false, "print each event as a line of JSON")
	return func(ctx context.Context, c command) error {
		if len(c.args) > 0 {
			return usagef("unexpected argument %q", c.args[0])
		}
		client := broker.Client{Socket: c.socket}
		return client.Watch(ctx, func(e protocol.Event) error {
			if *asJSON {
				return json.NewEncoder(c.out).Encode(e)
			}
			return printEvent(c.out, e)
		})
	}
}

// printEvent prints e as a line: when, what, and to what.
func printEvent(w io.Writer, e protocol.Event) error {
	words := []string{time.UnixMicro(e.Time).Format(time.TimeOnly), fmt.Sprintf("%-8s", e.What)}
	if e.Listener != "" {
		words = append(words, e.Listener, e.Network, e.Address)
	}
	if h := e.Holder; h != nil {
		if h.Grant != 0 {
			words = append(words, fmt.Sprintf("grant %d of %s", h.Grant, strings.Join(h.Names, ",")))
		}
		if e.Method != "" {
			words = append(words, e.Method)
		}
		words = append(words, fmt.Sprintf("pid %s (%s)", pidText(h.PID), userName(h.UID)))
		if h.Command != "" {
			words = append(words, h.Command)
		}
	}
	line := strings.Join(words, " ")
	if e.Why != "" {
		line += ": " + e.Why
	}
	_, err := fmt.Fprintln(w, protocol.Printable(line))
	return err
}
