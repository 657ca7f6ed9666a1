//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/spf13/pflag"
)

var upgradeVerb = verb{
	name:  "upgrade",
	usage: "upgrade",
	help: `Makes the program that is now where the broker was started from take over from it, in
the same process, with all listeners and grants, and prints its version once it
answers. Where that program does not accept the broker's flags and configuration
(fdbroker --check), the broker goes on and the answer says why. Where it ends before
it is ready, the old one is started again, and the exit status is 1. No connection is
lost, and holders notice nothing. Only root and the user that the broker runs as may
do this.
`,
	define: defineUpgrade,
	failed: exitFailed,
	wrong:  exitUsage,
}

func defineUpgrade(*pflag.FlagSet) action {
	return func(ctx context.Context, c command) error {
		if len(c.args) > 0 {
			return usagef("unexpected argument %q", c.args[0])
		}
		client := broker.Client{Socket: c.socket}
		if err := client.Upgrade(ctx); err != nil {
			_ = client.Close()
			return err
		}
		_ = client.Close()
		info, err := nextInfo(ctx, c.socket)
		if err != nil {
			return fmt.Errorf("after the upgrade: %w", err)
		}
		product, version := protocol.Printable(info.Product), protocol.Printable(info.Version)
		why, err := whyRestarted(ctx, c.socket)
		switch {
		case err != nil:
			return fmt.Errorf("%s %s answers, and does not say whether it was upgraded: %w", product, version, err)
		case why != protocol.WhyUpgraded:
			return fmt.Errorf("not upgraded: the new program was not ready when it ended (the broker says: %s), so %s %s was started again and goes on with everything; the broker's log says more", why, product, version)
		}
		fmt.Fprintln(c.out, "upgraded to", product, version)
		return nil
	}
}

// tellTime is how long it may take to be told why the broker is there.
const tellTime = 5 * time.Second

// whyRestarted returns what became of the broker before the one that answers now, which
// says so to whoever begins to watch.
func whyRestarted(ctx context.Context, socket string) (why string, err error) {
	ctx, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	client := broker.Client{Socket: socket}
	defer client.Close()
	err = client.Watch(ctx, func(e protocol.Event) error {
		if e.What == protocol.EventWatching {
			return nil
		}
		if e.What == protocol.EventRestarted {
			why = e.Why
		}
		return errTold
	})
	if why != "" {
		err = nil
	}
	return why, err
}

// errTold ends a watch. What comes first is what became of the broker before, if anything.
var errTold = errors.New("it tells nothing of another one")

// nextInfo asks the new broker. The call waits in the queue of the control socket, unless
// the old one has accepted it at the very last moment.
func nextInfo(ctx context.Context, socket string) (info protocol.Info, err error) {
	for range 3 {
		next := broker.Client{Socket: socket}
		info, err = next.Info(ctx)
		_ = next.Close()
		if !errors.Is(err, broker.ErrLost) {
			break
		}
	}
	return info, err
}
