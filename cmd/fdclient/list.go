package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/fdbroker/fdbroker/internal/cli"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/spf13/pflag"
)

var listVerb = verb{
	usage: "list [NAME...] [--json] [--specs]",
	help: `Shows all listeners, or the named ones, with their addresses, the number of holders,
queue length and limit, and how many connections were dropped because the queue was
full. For datagrams it counts bytes instead of connections. Then it shows each grant
and its process. Of processes in another pid namespace the broker only knows how many
got the listener (unseen).

A terminal highlights a listener that has connections queued and no holder. It also
highlights one whose holders do not accept, or accept too slowly: its queue has not
been empty for 5 seconds. If nobody holds a listener, root and the broker's user see
which processes still have its socket open, such as the child of a worker that exited.
A note says that nobody accepts, how often the broker has repaired the socket after a
worker changed it, and what it cannot repair at the moment.

With --specs, it prints a configuration for 'fdbroker --config': all that is bound,
including what was bound at run time. Write it to a new file first and then rename it,
because the broker may read the old one at any time:

  fdclient list --specs >/etc/fdbroker.conf.new &&
    mv /etc/fdbroker.conf.new /etc/fdbroker.conf
`,
	define: defineList,
	takes:  arguments{most: many},
	words:  otherNames,
}

func defineList(fs *pflag.FlagSet) action {
	asJSON := fs.Bool("json", false, "print the broker's answer as JSON")
	asSpecs := fs.Bool("specs", false, "print a configuration: the spec of each listener, with the address that was bound")
	return func(ctx context.Context, c command) error {
		if *asJSON && *asSpecs {
			return usagef("--json and --specs: choose one")
		}
		list, err := inTime(ctx, c.client.List)
		if err == nil {
			list, err = only(list, c.args)
		}
		if err != nil {
			return err
		}
		slices.SortStableFunc(list.Listeners, func(a, b protocol.Listener) int { return natural(a.Name, b.Name) })
		switch {
		case *asSpecs:
			return printSpecs(c.out, list.Listeners)
		case *asJSON:
			e := json.NewEncoder(c.out)
			e.SetEscapeHTML(false)
			e.SetIndent("", "  ")
			return e.Encode(list)
		}
		return printList(c.out, list, time.Now())
	}
}

// only returns the listeners of these names, and their holders; without names, all.
func only(list protocol.ListReply, names []string) (protocol.ListReply, error) {
	if len(names) == 0 {
		return list, nil
	}
	for _, name := range names {
		if !slices.ContainsFunc(list.Listeners, func(l protocol.Listener) bool { return l.Name == name }) {
			return list, unknownName(name, list)
		}
	}
	list.Listeners = slices.DeleteFunc(list.Listeners, func(l protocol.Listener) bool { return !slices.Contains(names, l.Name) })
	list.Holders = slices.DeleteFunc(list.Holders, func(h protocol.Holder) bool {
		return !slices.ContainsFunc(h.Names, func(name string) bool { return slices.Contains(names, name) })
	})
	return list, nil
}

// unknownName is the error of a name that is not in list.
func unknownName(name string, list protocol.ListReply) error {
	unknown := protocol.UnknownNameError{Name: name}
	for _, l := range list.Listeners {
		unknown.Names = append(unknown.Names, l.Name)
	}
	return &unknown
}

func printList(w io.Writer, list protocol.ListReply, now time.Time) error {
	listeners := [][]string{{"NAME", "ADDRESS", "HOLDERS", "QUEUE", "DROPS"}}
	noted := slices.ContainsFunc(list.Listeners, func(l protocol.Listener) bool { return noteText(l, now) != "" })
	if noted {
		listeners[0] = append(listeners[0], "NOTE")
	}
	for _, l := range list.Listeners {
		row := []string{l.Name, l.Network + " " + l.Address, holdersText(l), queueText(l), dropsText(l)}
		if noted {
			row = append(row, cmp.Or(noteText(l, now), "-"))
		}
		listeners = append(listeners, row)
	}
	err := printTable(w, listeners, func(row int) bool {
		return row > 0 && isLoud(list.Listeners[row-1])
	})
	if err != nil || len(list.Holders) == 0 {
		return err
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	grants := [][]string{{"GRANT", "NAMES", "PID", "USER", "STATE", "SINCE", "COMMAND"}}
	for _, h := range list.Holders {
		grants = append(grants, []string{strconv.FormatInt(h.Grant, 10), strings.Join(h.Names, ","), pidText(h.PID),
			userName(h.UID), stateText(h, list.Listeners), age(now.Sub(time.UnixMicro(h.Since))), cmp.Or(h.Command, "-")})
	}
	return printTable(w, grants, func(int) bool { return false })
}

// printTable prints rows in aligned columns, and highlights the loud ones on a terminal. It makes cells printable,
// because other users choose some of the texts.
func printTable(w io.Writer, rows [][]string, loud func(row int) bool) error {
	var text strings.Builder
	aligned := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			row[i] = protocol.Printable(cell)
		}
		fmt.Fprintln(aligned, strings.Join(row, "\t"))
	}
	_ = aligned.Flush()
	lines := strings.Split(text.String(), "\n")
	if os.Getenv("NO_COLOR") == "" && cli.IsTerminal(w) {
		for i := range rows {
			if loud(i) {
				lines[i] = "\x1b[1;31m" + lines[i] + "\x1b[0m"
			}
		}
	}
	_, err := io.WriteString(w, strings.Join(lines, "\n"))
	return err
}

func holdersText(l protocol.Listener) string {
	text := "nobody"
	switch {
	case l.Holders > 0 && l.Unseen > 0:
		text = fmt.Sprintf("%d +%d unseen", l.Holders, l.Unseen)
	case l.Holders > 0:
		text = strconv.Itoa(l.Holders)
	case l.Unseen > 0:
		text = fmt.Sprintf("%d unseen", l.Unseen)
	}
	if l.Stale > 0 && text == "nobody" {
		text = fmt.Sprintf("%d of its old socket", l.Stale)
	} else if l.Stale > 0 {
		text += fmt.Sprintf(" +%d of its old socket", l.Stale)
	}
	text += straysText(l.Strays)
	if l.Max > 0 {
		text += fmt.Sprintf(" (max %d)", l.Max)
	}
	if l.Waiting > 0 {
		text += fmt.Sprintf(" +%d waiting", l.Waiting)
	}
	return text
}

// straysText names the processes that have a socket although nobody holds the listener.
func straysText(strays []protocol.Process) string {
	var texts []string
	for _, p := range strays {
		texts = append(texts, fmt.Sprintf("%d %s", p.PID, p.Command))
	}
	switch len(texts) {
	case 0:
		return ""
	case 1:
		return " (pid " + texts[0] + " has it)"
	}
	return " (pids " + strings.Join(texts, ", ") + " have it)"
}

// stateText is the column STATE, with the names that are waited for and not bound.
func stateText(h protocol.Holder, bound []protocol.Listener) string {
	if len(h.Stale) > 0 {
		return h.State + ", old socket"
	}
	var missing []string
	for _, name := range h.Names {
		if h.State == protocol.StateWaiting && !slices.ContainsFunc(bound, func(l protocol.Listener) bool { return l.Name == name }) {
			missing = append(missing, strconv.Quote(name))
		}
	}
	if missing != nil {
		return h.State + " for " + strings.Join(missing, ", ")
	}
	return h.State
}

func queueText(l protocol.Listener) string {
	if l.Queue == nil {
		return "-"
	}
	unit := ""
	if l.Bytes {
		unit = " B"
	}
	if l.Limit == nil || *l.Limit == 0 {
		return fmt.Sprintf("%d%s", *l.Queue, unit)
	}
	return fmt.Sprintf("%d/%d%s", *l.Queue, *l.Limit, unit)
}

func dropsText(l protocol.Listener) string {
	if l.Drops == nil {
		return "-"
	}
	return strconv.FormatUint(*l.Drops, 10)
}

// isLoud reports whether a listener needs somebody's attention.
func isLoud(l protocol.Listener) bool { return l.Orphaned || l.Stalled || l.Ailment != "" }

// noteText is the column NOTE: the fault of the socket, that nobody accepts, that it is not stored; else how often it
// was repaired.
func noteText(l protocol.Listener, now time.Time) string {
	var notes []string
	if l.Ailment != "" {
		notes = append(notes, l.Ailment)
	}
	if l.Stalled {
		notes = append(notes, fmt.Sprintf("queue not served for %s, or too slowly", age(now.Sub(time.UnixMicro(l.StalledSince)))))
	}
	if l.Unstored != "" {
		notes = append(notes, "would not outlive the broker")
	}
	switch n := l.Healed - l.HealedLimits; { // most servers set the limit: nobody has to know that
	case len(notes) > 0:
		return strings.Join(notes, "; ")
	case n == 1:
		return "healed once"
	case n > 0:
		return fmt.Sprintf("healed %d times", n)
	}
	return ""
}

func pidText(pid int) string {
	if pid == 0 {
		return "-" // in another pid namespace
	}
	return strconv.Itoa(pid)
}

// userName returns the name of a user, or the number if it has none.
func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

// age returns d in its two largest units.
func age(d time.Duration) string {
	d = max(d, 0).Truncate(time.Second)
	if d < 24*time.Hour {
		return d.String()
	}
	return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}
