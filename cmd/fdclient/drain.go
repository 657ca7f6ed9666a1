//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/spf13/pflag"
)

var drainVerb = verb{
	name:  "drain",
	usage: "drain NAME... [--before GRANT] [--wait DURATION]",
	help: `Asks the holders of these listeners to stop accepting, finish what they have, and
leave: a process that 'fdclient get' became gets its --drain-signal, a Go worker is
told by its listener. What is queued waits for whoever comes next. Prints how many
were asked and, with --wait, how many of them left in time; where some did not, it
says who, and the exit status is 1. It is 1 as well where the broker may not signal
one of them. Who waits for a place and is as old is turned away. A 'fdclient run' of
such workers does not start them again, but ends once they have left; its --replace
starts the new ones first. Where the broker is upgraded or crashes meanwhile, --wait
ends: the drain was begun, and the same command waits for the rest.
Users other than root and the broker's own drain their own processes only.

  fdclient drain web --wait 30s
`,
	define: defineDrain,
	failed: exitFailed,
	wrong:  exitUsage,
	words:  otherNames,
}

func defineDrain(fs *pflag.FlagSet) action {
	before := fs.Int64("before", 0, "only those that are older than `GRANT`, as 'fdclient list' shows it")
	wait := fs.Duration("wait", 0, "wait until they have left, at most `DURATION`")
	return func(ctx context.Context, c command) error {
		switch {
		case len(c.args) == 0:
			return usagef("no name")
		case fs.Changed("before") && *before < 1:
			return usagef("--before %d: use the number of a grant", *before)
		case fs.Changed("wait") && *wait <= 0:
			return usagef("--wait %v: use a duration such as 30s", *wait)
		}
		client := broker.Client{Socket: c.socket}
		defer client.Close()
		if *wait == 0 {
			n, err := client.Drain(ctx, broker.DrainOptions{Before: *before}, c.args...)
			if err == nil || errors.Is(err, broker.ErrUnasked) {
				fmt.Fprintln(c.out, asked(n))
			}
			return err
		}
		return drain(ctx, c, &client, *before, *wait)
	}
}

// drain asks, and waits until all have left.
func drain(ctx context.Context, c command, client *broker.Client, before int64, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	drained, left := -1, 0 // -1: no answer yet
	_, err := client.Drain(ctx, broker.DrainOptions{Before: before, Progress: func(n int) {
		if left = n; drained < 0 {
			drained = n
			fmt.Fprintln(c.out, asked(n))
		}
	}}, c.args...)
	timedOut := errors.Is(err, context.DeadlineExceeded)
	if drained > 0 && (err == nil || timedOut || errors.Is(err, broker.ErrUnasked)) {
		fmt.Fprintf(c.out, "%d of %d left\n", drained-left, drained)
	}
	if drained >= 0 && errors.Is(err, broker.ErrLost) {
		return fmt.Errorf("%w: the drain was begun; run the same again to wait for the rest, with --before to spare newer holders", err)
	}
	if !timedOut {
		return err
	}
	who, err := staying(c, client)
	if err != nil {
		return fmt.Errorf("after %v it is not known who is still there: %w", limit, err)
	}
	return fmt.Errorf("after %v there are still: %s; wait longer, or stop them yourself", limit, who)
}

func asked(n int) string {
	if n == 1 {
		return "1 holder was asked to leave"
	}
	return fmt.Sprintf("%d holders were asked to leave", n)
}

// staying says who has been asked to leave, and has not.
func staying(c command, client *broker.Client) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	list, err := client.List(ctx)
	if err != nil {
		return "", err
	}
	text := ""
	for _, h := range list.Holders {
		if h.State != protocol.StateDraining || !slices.ContainsFunc(h.Names, func(name string) bool { return slices.Contains(c.args, name) }) {
			continue
		}
		if text != "" {
			text += ", "
		}
		text += fmt.Sprintf("grant %d, pid %s (%s)", h.Grant, pidText(h.PID), h.Command)
	}
	if text == "" {
		text = "none by now"
	}
	return text, nil
}
