package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/spf13/pflag"
)

var drainVerb = verb{
	usage: "drain NAME... [--before GRANT] [--wait DURATION]",
	help: `Asks the holders of these listeners to stop accepting, finish what they have, and
leave. A process started with 'fdclient get' gets its --drain-signal; the listener of
a Go worker tells it. Queued connections wait for the next holder; if no other process
holds the listener, a warning says so. Processes of the same age that are still waiting
are refused.

Prints how many holders were asked and, with --wait, how many of them left in time. The
exit status is 1 if some did not, which are listed, or if the broker may not signal one
of them. If the broker is upgraded or crashes meanwhile, --wait stops: the drain has
begun, and the same command waits for the others.

A 'fdclient run' whose workers are drained does not restart them, and exits once they
have left. To start new workers first, use 'fdclient run --replace' instead. Processes
in a pid namespace that the broker cannot see are not asked; a warning says so. Users
other than root and the broker's own can only drain their own processes.

  fdclient drain web --wait 30s
`,
	define: defineDrain,
	takes:  arguments{1, many, "name at least one listener"},
	words:  otherNames,
}

func defineDrain(fs *pflag.FlagSet) action {
	before := fs.Int64("before", 0, "ask only holders whose grant is older than `GRANT`, a number in 'fdclient list'")
	wait := fs.Duration("wait", 0, "wait at most `DURATION` until they have left")
	return func(ctx context.Context, c command) error {
		switch {
		case fs.Changed("before") && *before < 1:
			return usagef("--before %d: use the number of a grant", *before)
		case fs.Changed("wait") && *wait <= 0:
			return usagef("--wait %v: use a duration such as 30s", *wait)
		}
		if *wait > 0 {
			return drainAndWait(ctx, c, *before, *wait)
		}
		n, err := c.client.Drain(ctx, broker.DrainOptions{Before: *before, Unserved: c.warnUnserved}, c.args...)
		if err == nil || errors.Is(err, broker.ErrUnasked) {
			fmt.Fprintln(c.out, asked(n))
			noteUnseen(c)
		}
		return err
	}
}

// noteUnseen says if processes may hold the listeners that the broker cannot follow.
func noteUnseen(c command) {
	list, _ := listAgain(c.socket, time.Second) // after an error it is empty
	for _, l := range list.Listeners {
		if l.Unseen == 0 || !slices.Contains(c.args, l.Name) {
			continue
		}
		who, were := "1 process", "was"
		if l.Unseen > 1 {
			who, were = fmt.Sprintf("up to %d processes", l.Unseen), "were"
		}
		fmt.Fprintf(c.err, "fdclient: %s: %s in another pid namespace may hold it and %s not asked: stop such workers yourself\n", l.Name, who, were)
	}
}

// drainAndWait drains, and waits until all holders have left.
func drainAndWait(ctx context.Context, c command, before int64, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	drained, left := -1, 0 // -1: no answer yet
	_, err := c.client.Drain(ctx, broker.DrainOptions{Before: before, Unserved: c.warnUnserved, Progress: func(n int) {
		if left = n; drained < 0 {
			drained = n
			fmt.Fprintln(c.out, asked(n))
		}
	}}, c.args...)
	timedOut := errors.Is(err, context.DeadlineExceeded)
	if drained > 0 && (err == nil || timedOut || errors.Is(err, broker.ErrUnasked)) {
		fmt.Fprintf(c.out, "%d of %d left\n", drained-left, drained)
	}
	if drained >= 0 {
		noteUnseen(c)
	}
	switch {
	case drained >= 0 && errors.Is(err, broker.ErrLost):
		return fmt.Errorf("%w: the drain has begun; run the same command again to wait for the others, with --before to spare newer holders", err)
	case !timedOut:
		return err
	}
	who, err := staying(c)
	if err != nil {
		return fmt.Errorf("cannot tell which holders are left after %v: %w", limit, err)
	}
	return fmt.Errorf("not left after %v: %s; wait longer, or stop them yourself", limit, who)
}

// warnUnserved says that a drain is an outage, as far as the broker knows.
func (c command) warnUnserved(names []string) {
	fmt.Fprintln(c.err, "fdclient: warning: nobody else holds", protocol.Printable(strings.Join(names, ", "))+
		": new connections wait in the queue")
}

func asked(n int) string {
	if n == 1 {
		return "1 holder was asked to leave"
	}
	return fmt.Sprintf("%d holders were asked to leave", n)
}

// staying lists the holders that were asked to leave and have not left.
func staying(c command) (string, error) {
	list, err := listAgain(c.socket, time.Second)
	if err != nil {
		return "", err
	}
	var holders []string
	for _, h := range list.Holders {
		if h.State == protocol.StateDraining && slices.ContainsFunc(h.Names, func(name string) bool { return slices.Contains(c.args, name) }) {
			holders = append(holders, fmt.Sprintf("grant %d, pid %s (%s)", h.Grant, pidText(h.PID), h.Command))
		}
	}
	if holders == nil {
		return "none any more", nil
	}
	return strings.Join(holders, ", "), nil
}
