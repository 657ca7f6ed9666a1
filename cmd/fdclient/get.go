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
	"golang.org/x/sys/unix"
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
	stdin := fs.Bool("stdin", false, "give CMD the one socket as standard input, and set no LISTEN_*")
	noListen := fs.Bool("no-listen-env", false, "set no LISTEN_*")
	env := fs.StringArray("env", nil, "set an environment variable of CMD: `K=TEMPLATE`; may be given many times")
	blocking := fs.Bool("blocking", false, "CMD needs blocking sockets (implied by --stdin; --blocking=false: non-blocking ones)")
	wait := fs.String("wait", "", "wait for a broker, the names and a place: at most `DURATION`, as in --wait=30s")
	fs.Lookup("wait").NoOptDefVal = "forever"
	drainSignal := fs.String("drain-signal", "TERM", "`SIGNAL` that asks CMD to stop accepting and leave, or none")
	return func(ctx context.Context, c command) error {
		if len(c.args) == 0 {
			return usagef("no name")
		}
		if len(c.dashed) == 0 {
			return usagef("no command: put -- and the command behind the names")
		}
		if *stdin && len(c.args) > 1 {
			return usagef("--stdin is for one socket, and there are %d names", len(c.args))
		}
		for i, name := range c.args {
			if slices.Contains(c.args[:i], name) {
				return usagef("%q is given twice", name)
			}
			if _, err := time.ParseDuration(name); err == nil && fs.Changed("wait") && *wait == "forever" {
				return usagef("%q would be a name; write --wait=%s", name, name)
			}
		}
		signal, err := signalName(*drainSignal)
		if err != nil {
			return err
		}
		options := broker.GetOptions{Wait: fs.Changed("wait"), DrainSignal: signal}
		if *stdin || fs.Changed("blocking") {
			options.Blocking = new(*blocking || *stdin && !fs.Changed("blocking"))
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
		return get(ctx, c, options, launch.Config{
			Stdin: *stdin, NoListenEnv: *noListen, Env: *env,
			Command: c.dashed, Environ: os.Environ(),
		})
	}
}

// signalName returns a signal's name without "SIG", or "" for none.
func signalName(text string) (string, error) {
	name := strings.TrimPrefix(strings.ToUpper(text), "SIG")
	switch {
	case name == "NONE":
		return "", nil
	case unix.SignalNum("SIG"+name) == 0:
		return "", usagef("--drain-signal %s: there is no such signal; use TERM, QUIT, USR1 or another, or none", text)
	}
	return name, nil
}

// get fetches the sockets and becomes the command. It returns only an error.
func get(ctx context.Context, c command, options broker.GetOptions, program launch.Config) error {
	client := broker.Client{Socket: c.socket}
	sockets, err := client.Get(ctx, options, c.args...)
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
	return errors.New("what was missing is there now")
}

func holding(list protocol.ListReply, name string) []protocol.Holder {
	return slices.DeleteFunc(slices.Clone(list.Holders), func(h protocol.Holder) bool {
		holds := h.State == protocol.StateActive || h.State == protocol.StateDraining
		return !holds || !slices.Contains(h.Names, name)
	})
}
