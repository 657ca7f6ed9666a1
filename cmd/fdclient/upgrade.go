package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/protocol"
)

var upgradeVerb = verb{
	usage: "upgrade",
	help: `Replaces the running broker with the program now on disk, without closing anything,
and prints the version of the new one once it answers. The process, all listeners and
all grants stay. No connection is lost, and holders notice nothing.

The new program first checks the broker's flags and configuration (fdbroker --check).
If it refuses them, the running broker continues, and the error says why. If it exits
before it is ready, the previous version is started again. Both times the exit status
is 1. Only root and the user that the broker runs as may do this.
`,
	act: upgrade,
}

func upgrade(ctx context.Context, c command) error {
	err := c.client.Upgrade(ctx)
	_ = c.client.Close() // the next calls are for the next broker
	switch {
	case errors.Is(err, broker.ErrUpgradeFailed):
		return fmt.Errorf("not upgraded: %w", err)
	case err != nil:
		return err
	}
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
		return fmt.Errorf("not upgraded: the new program exited before it was ready (%s); %s %s was started again and has all listeners and grants; the broker's log says more", why, product, version)
	}
	fmt.Fprintln(c.out, "upgraded to", product, version)
	return nil
}

// whyRestarted returns how the broker before this one ended: the first event of a watch says so.
func whyRestarted(ctx context.Context, socket string) (why string, err error) {
	ctx, cancel := context.WithTimeout(ctx, replyTime)
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
		return errFirstEvent
	})
	if why != "" {
		err = nil
	}
	return why, err
}

// errFirstEvent ends a watch. It is the error if the first event is about no earlier broker.
var errFirstEvent = errors.New("it tells nothing of another one")

// nextInfo asks the new broker. It asks again if the old one has accepted the connection at
// the last moment and closed it.
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
