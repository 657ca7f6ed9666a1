package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/fdbroker/fdbroker/broker/supervisor"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/spf13/pflag"
)

var rollVerb = verb{
	usage: "roll [NAME...] [--pid PID] [--timeout DURATION]",
	help: `Makes 'fdclient run' replace its workers by new ones, as SIGHUP does, and waits until
that is over. NAME means every 'fdclient run' whose workers serve that listener, one
after the other; the broker knows their pids. --pid means the one with that pid, and
needs no broker. If a new worker is not ready, the old ones keep running: roll prints
why and asks no other 'fdclient run', and the exit status is 1. If a roll is under way
already, another one follows, and this command waits for that. Only root and the user
of 'fdclient run' may ask.

  fdclient roll web
  fdclient roll --pid $MAINPID    # ExecReload= of a service
`,
	define: defineRoll,
	takes:  arguments{most: many},
	words:  otherNames,
}

func defineRoll(fs *pflag.FlagSet) action {
	pid := fs.Int("pid", 0, "ask the 'fdclient run' with this `PID`")
	limit := fs.Duration("timeout", 0, "stop waiting after `DURATION`; the roll continues")
	return func(ctx context.Context, c command) error {
		switch {
		case fs.Changed("pid") && *pid < 1:
			return usagef("--pid %d: use the pid of a process", *pid)
		case fs.Changed("pid") == (len(c.args) > 0):
			return usagef("name at least one listener, or give --pid, and not both")
		case fs.Changed("timeout") && *limit <= 0:
			return usagef("--timeout %v: use a duration such as 30s", *limit)
		}
		if *limit > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeoutCause(ctx, *limit, fmt.Errorf("not over after %v: the roll continues", *limit))
			defer cancel()
		}
		if *pid > 0 {
			return roll(ctx, c, *pid)
		}
		return rollNames(ctx, c)
	}
}

// rollNames rolls every run of the named listeners, until one fails.
func rollNames(ctx context.Context, c command) error {
	list, err := inTime(ctx, c.client.List)
	if err != nil {
		return err
	}
	var pids []int
	for _, name := range c.args {
		runs, err := runsOf(list, name)
		if err != nil {
			return err
		}
		for _, pid := range runs {
			if !slices.Contains(pids, pid) {
				pids = append(pids, pid)
			}
		}
	}
	for i, pid := range pids {
		if err := roll(ctx, c, pid); err != nil {
			if _, answered := errors.AsType[*supervisor.RollError](err); answered || ctx.Err() != nil {
				err = fmt.Errorf("pid %d: %w", pid, err)
			} // else it says of which process it is
			if rest := pids[i+1:]; len(rest) > 0 {
				err = fmt.Errorf("%w; not asked then: %s", err, strings.Trim(fmt.Sprint(rest), "[]"))
			}
			return err
		}
	}
	return nil
}

// runsOf returns the pids of those that keep workers of the named listener alive.
func runsOf(list protocol.ListReply, name string) (pids []int, err error) {
	unseen := 0
	for _, d := range list.Deployers {
		switch {
		case !slices.Contains(d.Names, name):
		case d.PID == 0:
			unseen++
		default:
			pids = append(pids, d.PID)
		}
	}
	switch {
	case unseen > 0:
		return nil, fmt.Errorf("a 'fdclient run' that keeps workers of %q alive is in another pid namespace: use --pid there", name)
	case len(pids) > 0:
		return pids, nil
	case !slices.ContainsFunc(list.Listeners, func(l protocol.Listener) bool { return l.Name == name }):
		unknown := protocol.UnknownNameError{Name: name}
		for _, l := range list.Listeners {
			unknown.Names = append(unknown.Names, l.Name)
		}
		return nil, &unknown
	case os.Geteuid() == 0 && slices.ContainsFunc(list.Holders, func(h protocol.Holder) bool {
		return h.Generation != h.Grant && slices.Contains(h.Names, name)
	}): // one has started workers, and has ended; or the broker is of a version that does not say
		return nil, fmt.Errorf("the broker knows no 'fdclient run' that keeps workers of %q alive: if there is one, use --pid", name)
	case os.Geteuid() == 0:
		return nil, fmt.Errorf("no 'fdclient run' keeps workers of %q alive", name)
	}
	return nil, fmt.Errorf("no 'fdclient run' of your user keeps workers of %q alive", name)
}

// roll rolls the run with that pid, and prints how many workers it has replaced.
func roll(ctx context.Context, c command, pid int) error {
	n, err := supervisor.Roll(ctx, pid)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return context.Cause(ctx)
	case err != nil:
		return err
	}
	_, err = fmt.Fprintln(c.out, replaced(n))
	return err
}

func replaced(n int) string {
	if n == 1 {
		return "1 worker was replaced"
	}
	return fmt.Sprintf("%d workers were replaced", n)
}
