//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/version"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/spf13/pflag"
)

var pingVerb = verb{
	name:   "ping",
	usage:  "ping",
	help:   "Says which broker answers, with exit status 0, or that none does within 5 s, with 1.\n",
	define: definePing,
	failed: exitFailed,
	wrong:  exitUsage,
}

func definePing(*pflag.FlagSet) action {
	return func(ctx context.Context, c command) error {
		if len(c.args) > 0 {
			return usagef("unexpected argument %q", c.args[0])
		}
		client := broker.Client{Socket: c.socket}
		defer client.Close()
		var info protocol.Info
		err := inTime(ctx, func(ctx context.Context) (err error) {
			info, err = client.Info(ctx)
			return err
		})
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(c.out, protocol.Printable(info.Product), protocol.Printable(info.Version), "answers")
		return err
	}
}

// replyTime is how long a broker that runs may take to answer what it need not wait for.
const replyTime = 5 * time.Second

// inTime calls ask, which makes such a call, and says so where there is no answer in time.
func inTime(ctx context.Context, ask func(context.Context) error) error {
	within, cancel := context.WithTimeout(ctx, replyTime)
	defer cancel()
	err := ask(within)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return fmt.Errorf("no answer for %v from the broker that listens at the control socket: it is stopped or hangs", replyTime)
	}
	return err
}

var versionVerb = verb{
	name:   "version",
	usage:  "version",
	help:   "Prints the version of fdclient; 'fdclient ping' tells the broker's.\n",
	define: defineVersion,
	failed: exitFailed,
	wrong:  exitUsage,
}

func defineVersion(*pflag.FlagSet) action {
	return func(_ context.Context, c command) error {
		if len(c.args) > 0 {
			return usagef("unexpected argument %q", c.args[0])
		}
		_, err := fmt.Fprintln(c.out, "fdclient", version.Number)
		return err
	}
}
