package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/spf13/pflag"
)

var reloadVerb = verb{
	usage: "reload [--force] [--rebind [--wait DURATION]]",
	help: `Makes the broker read its --config file again, and prints a line for each listener
that was bound, unbound or changed. What was bound with 'fdclient bind' stays. Only
root and the user that the broker runs as may do this.

Nothing changes if a spec is wrong or cannot be bound. Without --force, nothing changes
either if that would unbind a listener in use: one that a process holds or has open, or
that has connections in its queue. The same is true for a file without any listener,
and for a file that would unbind listeners and lacks the newline at its end, because an
editor on a full disk leaves such files.

Most options change on the open socket. Another address needs a new socket: Go programs
get it by themselves, and 'fdclient run' replaces its workers. If other processes have
the old socket, nothing changes without --rebind. With it, they get their drain signal;
reload waits for them; if some still have the old socket then, it lists them, and the
exit status is 1, although the configuration is loaded. Connections that wait there are
still served, and no new ones arrive there. --rebind also replaces a socket that cannot
be repaired, and asks who still has the old socket of an earlier reload.
`,
	define: defineReload,
}

func defineReload(fs *pflag.FlagSet) action {
	var o broker.ReloadOptions
	fs.BoolVar(&o.Force, "force", false, "unbind listeners even if they are in use, and load a file even if it looks truncated")
	fs.BoolVar(&o.Rebind, "rebind", false, "bind new sockets even if processes have the old ones, and ask those processes to leave")
	wait := fs.Duration("wait", 30*time.Second, "with --rebind, wait at most `DURATION` until they have left")
	return func(ctx context.Context, c command) error {
		if *wait < 0 {
			return usagef("--wait %v: use a duration such as 30s", *wait)
		}
		changes, err := c.client.ReloadWith(ctx, o)
		if err != nil {
			return err
		}
		if err := printChanges(c.out, changes); err != nil || !o.Rebind {
			return err
		}
		return awaitOld(ctx, c, changes.Renewed, *wait)
	}
}

func printChanges(w io.Writer, changes protocol.ReloadReply) (err error) {
	if len(changes.Bound)+len(changes.Unbound)+len(changes.Changed) == 0 {
		_, err = fmt.Fprintln(w, "nothing changed")
	}
	for _, what := range []struct {
		word  string
		names []string
	}{{"bound", changes.Bound}, {"unbound", changes.Unbound}, {"changed", changes.Changed}} {
		for _, name := range what.names {
			line := what.word + " " + name
			if i := slices.IndexFunc(changes.Renewed, func(r protocol.Renewed) bool { return r.Name == name }); i >= 0 {
				if text := renewedText(changes.Renewed[i], what.word == "changed"); text != "" {
					line += ": " + text
				}
			}
			_, err = fmt.Fprintln(w, protocol.Printable(line))
		}
	}
	for _, r := range changes.Renewed { // names that had an old socket before
		text := renewedText(r, false)
		if text != "" && !slices.Contains(slices.Concat(changes.Unbound, changes.Changed), r.Name) {
			_, err = fmt.Fprintln(w, protocol.Printable(r.Name+": "+text))
		}
	}
	return err
}

// renewedText says that a listener has a new socket, if it was changed, and what those do that have the old one.
func renewedText(r protocol.Renewed, changed bool) string {
	var texts []string
	if changed {
		texts = append(texts, "new socket")
	}
	switch {
	case r.Rolling == 1:
		texts = append(texts, "1 worker of fdclient run is being replaced")
	case r.Rolling > 1:
		texts = append(texts, fmt.Sprintf("%d workers of fdclient run are being replaced", r.Rolling))
	}
	switch {
	case r.Moving == 1:
		texts = append(texts, "1 client was told to get it")
	case r.Moving > 1:
		texts = append(texts, fmt.Sprintf("%d clients were told to get it", r.Moving))
	}
	for _, p := range r.Asked {
		texts = append(texts, fmt.Sprintf("asked pid %d (%s) to leave the old one", p.PID, p.Command))
	}
	for _, p := range r.Left {
		texts = append(texts, fmt.Sprintf("pid %d (%s) has the old one, and cannot be asked to leave", p.PID, p.Command))
	}
	return strings.Join(texts, "; ")
}

// awaitOld waits until no process has an old socket of these listeners. Its error names those that still have one in the
// end.
func awaitOld(ctx context.Context, c command, renewed []protocol.Renewed, most time.Duration) error {
	const every = 100 * time.Millisecond
	for deadline := time.Now().Add(most); len(renewed) > 0; {
		list, err := c.client.List(ctx)
		if err != nil {
			return err
		}
		var lines []string
		for _, h := range list.Holders {
			for _, name := range h.Stale {
				if slices.ContainsFunc(renewed, func(r protocol.Renewed) bool { return r.Name == name }) {
					lines = append(lines, fmt.Sprintf("%s: pid %s (%s) still has the old socket: restart it", name, pidText(h.PID), h.Command))
				}
			}
		}
		if len(lines) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.New(strings.Join(lines, "\n"))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(every):
		}
	}
	return nil
}
