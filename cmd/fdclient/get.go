//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/launch"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/spf13/pflag"
)

// exitGet is the exit status where get itself failed, as env(1) and timeout(1) have it.
const exitGet = 125

var getVerb = verb{
	name:  "get",
	usage: "get NAME... [flags] -- CMD [ARG...]",
	help: `Becomes CMD, with the sockets of the named listeners open from descriptor 3 up,
in that order, and LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES set as systemd does.
In CMD's words and in --env, {fd:NAME}, {addr:NAME}, {port:NAME} and {path:NAME}
are replaced; without :NAME they mean the first one.
CMD keeps the pid of fdclient: the broker knows by it who holds the sockets.

  fdclient get web -- ./server
  fdclient get web -- uvicorn --fd {fd} app:app
  fdclient get --stdin web -- php-cgi
  fdclient get web adm --env 'NGINX={fd:web};{fd:adm};' -- nginx

Exit status: 125 fdclient itself failed (wrong usage included), 126 CMD cannot be
run, 127 CMD is not found, else CMD's own.
`,
	define: defineGet,
	failed: exitGet,
	wrong:  exitGet,
	runs:   true,
	words:  otherNames,
}

func defineGet(fs *pflag.FlagSet) action {
	l := defineLaunch(fs)
	wait := fs.String("wait", "", "wait for a broker, the names and a place: at most `DURATION`, as in --wait=30s")
	fs.Lookup("wait").NoOptDefVal = "forever"
	return func(ctx context.Context, c command) error {
		if len(c.args) == 0 {
			return usagef("no name")
		}
		options, err := l.options(c)
		if err != nil {
			return err
		}
		options.Wait = fs.Changed("wait")
		for _, name := range c.args {
			if _, err := time.ParseDuration(name); err == nil && options.Wait && *wait == "forever" {
				return usagef("%q would be a name; write --wait=%s", name, name)
			}
		}
		if options.Wait && *wait != "forever" {
			limit, err := time.ParseDuration(*wait)
			if err != nil || limit <= 0 {
				return usagef("--wait=%s: use a duration such as 30s", *wait)
			}
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, limit)
			defer cancel()
		}
		if options.Wait && !reports() {
			defer tellWaiting(c)()
		}
		return get(ctx, c, options, l.config(c))
	}
}

// get fetches the sockets and becomes the command. It returns only an error.
func get(ctx context.Context, c command, options broker.GetOptions, program launch.Config) error {
	report := inheritedProgress()
	if !report.awaitStart() {
		return nil
	}
	program.Environ = os.Environ()
	err := become(ctx, c, options, program, report)
	status := exitGet
	if e, ok := errors.AsType[*exitError](err); ok {
		status = e.status
	}
	report.failed(err, status)
	return err
}

func become(ctx context.Context, c command, options broker.GetOptions, program launch.Config, report *progress) error {
	if s := options.DrainSignal; s != "" && s != "TERM" { // which ends a Go program too
		_ = launch.DefaultSignal(s) // KILL and STOP are as they are
	}
	if options.Wait { // else a place might become free for nothing
		if err := checkCommand(program.Command, program.Environ); err != nil {
			return err
		}
	}
	client := broker.Client{Socket: c.socket}
	sockets, err := report.get(ctx, &client, options, c.args)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("gave up waiting: %w", missing(c))
	}
	if err != nil {
		return err
	}
	for _, s := range sockets {
		program.Sockets = append(program.Sockets, launch.Socket{Name: s.Name, Network: s.Network, Address: s.Address, FD: s.FD})
	}
	p, err := launch.Prepare(program)
	if err == nil {
		err = p.Exec()
	}
	return &exitError{err, launch.ExitCode(err)}
}

// checkCommand returns why the command cannot be run, as far as that is known before there
// are sockets: one with a placeholder for its name is not known yet.
func checkCommand(command, environ []string) error {
	if strings.Contains(command[0], "{") {
		return nil
	}
	if _, err := launch.Find(command, environ); err != nil {
		return &exitError{err, launch.ExitCode(err)}
	}
	return nil
}

// quietTime is how long a get waits before it says what for.
const quietTime = time.Second

// tellWaiting says what get waits for, once, if it does for long, until the result is
// called.
func tellWaiting(c command) (stop func() bool) {
	return time.AfterFunc(quietTime, func() {
		if err := missing(c); err != errNotMissing {
			complain(c.err, fmt.Errorf("waiting: %w", err))
		}
	}).Stop
}

// missing says what a Get that has waited in vain was waiting for.
func missing(c command) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	client := broker.Client{Socket: c.socket}
	defer client.Close()
	list, err := client.List(ctx)
	if err != nil {
		return err
	}
	bound := make(map[string]bool)
	var names []string
	for _, l := range list.Listeners {
		bound[l.Name] = true
		names = append(names, l.Name)
	}
	for _, name := range c.args {
		if !bound[name] {
			return &protocol.UnknownNameError{Name: name, Names: names}
		}
	}
	for _, l := range list.Listeners {
		if slices.Contains(c.args, l.Name) && l.Max > 0 && l.Holders >= l.Max {
			return &protocol.FullError{Name: l.Name, Max: l.Max, Holders: holding(list, l.Name)}
		}
	}
	return errNotMissing
}

var errNotMissing = errors.New("what was missing is there now")

func holding(list protocol.ListReply, name string) []protocol.Holder {
	return slices.DeleteFunc(slices.Clone(list.Holders), func(h protocol.Holder) bool {
		holds := h.State == protocol.StateActive || h.State == protocol.StateDraining
		return !holds || !slices.Contains(h.Names, name)
	})
}
