package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/spf13/pflag"
)

var watchVerb = verb{
	usage: "watch [--json]",
	help: `Prints what happens at the broker, one event a line, until it is interrupted:
listeners bound and unbound; grants made, draining and ended, with the reason; calls
refused; sockets repaired; and listeners whose holders do not accept. When the broker
exits, it prints "lost", and continues once the next broker answers. If it cannot keep
up, it prints "overflow" and exits with status 1. Only root and the user that the
broker runs as may watch.
`,
	define: defineWatch,
}

func defineWatch(fs *pflag.FlagSet) action {
	asJSON := fs.Bool("json", false, "print each event as a line of JSON")
	return func(ctx context.Context, c command) error {
		return watch(ctx, c.client, func(e protocol.Event) error {
			if *asJSON {
				return json.NewEncoder(c.out).Encode(e)
			}
			return printEvent(c.out, e)
		})
	}
}

// eventLost says that the broker has ended. It is the only event that no broker sends.
const eventLost = "lost"

// watch calls tell with the events of the broker and, when it has ended, of the next one.
func watch(ctx context.Context, client *broker.Client, tell func(protocol.Event) error) error {
	begun := false // there was a broker
	for wait := retryMin; ; {
		err := client.Watch(ctx, func(e protocol.Event) error {
			begun, wait = true, retryMin
			return tell(e)
		})
		switch {
		case errors.Is(err, broker.ErrLost) && begun:
			if err := tell(protocol.Event{What: eventLost, Time: time.Now().UnixMicro()}); err != nil {
				return err
			}
		case !errors.Is(err, broker.ErrNoBroker) || !begun:
			return err
		}
		if err := pause(ctx, &wait); err != nil {
			return err
		}
	}
}

// printEvent prints e as a line: time, event, and its listener or holder.
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
	line := strings.TrimRight(strings.Join(words, " "), " ")
	if e.Why != "" {
		line += ": " + strings.ReplaceAll(e.Why, "\n", "; ")
	}
	_, err := fmt.Fprintln(w, protocol.Printable(line))
	return err
}
