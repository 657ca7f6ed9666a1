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
	"github.com/fdbroker/fdbroker/broker/supervisor"
	"github.com/fdbroker/fdbroker/internal/launch"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

// exitGet is the exit status if get itself failed, as of env(1) and timeout(1).
const exitGet = 125

var getVerb = verb{
	usage: "get NAME... [flags] -- CMD [ARG...]",
	help: `Becomes CMD, with the sockets of the named listeners open as descriptors 3, 4 and so
on, in that order, and sets LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES as systemd does.
CMD must accept an inherited socket: a program that binds its own port does not use it.
In CMD's words and in --env, {fd:NAME}, {addr:NAME}, {port:NAME} and {path:NAME} are
replaced; without :NAME they mean the first listener. A NAME that is not among those
of the command line is an error. CMD keeps the pid of fdclient, by which the broker
knows which process holds the sockets.

  fdclient get web -- ./server
  fdclient get web -- uvicorn --fd {fd} app:app
  fdclient get --stdin web -- php-cgi
  fdclient get web adm --env 'NGINX={fd:web};{fd:adm};' -- nginx

Exit status: 125 fdclient itself failed (wrong usage included), 126 CMD cannot be
run, 127 CMD is not found, else CMD's own.
`,
	define: defineGet,
	takes:  arguments{1, many, "name at least one listener"},
	status: exitGet,
	runs:   true,
	words:  otherNames,
}

// launchFlags say how a command gets its sockets. Get and run have them.
type launchFlags struct {
	fs          *pflag.FlagSet
	config      launch.Config // without the command
	blocks      bool
	drainSignal string
}

func defineLaunch(fs *pflag.FlagSet) *launchFlags {
	l := &launchFlags{fs: fs}
	fs.BoolVar(&l.config.Stdin, "stdin", false, "give CMD the one socket as standard input, and set no LISTEN_*")
	fs.BoolVar(&l.config.NoListenEnv, "no-listen-env", false, "set no LISTEN_*")
	fs.StringArrayVar(&l.config.Env, "env", nil, "set an environment variable of CMD: `K=TEMPLATE`; may be given many times")
	fs.BoolVar(&l.blocks, "blocking", false, "give CMD blocking sockets (the default with --stdin), or with --blocking=false non-blocking ones")
	fs.StringVar(&l.drainSignal, "drain-signal", "TERM", "ask CMD with `SIGNAL` to stop accepting and leave; none for no signal")
	return l
}

// options returns the options of the call, or an error in the command line.
func (l *launchFlags) options(c command) (o broker.GetOptions, err error) {
	if len(c.dashed) == 0 {
		return o, usagef("nothing to run: put it after --, as in: fdclient get web -- ./server")
	}
	if l.config.Stdin && len(c.args) > 1 {
		return o, usagef("--stdin is for one socket, and there are %d names", len(c.args))
	}
	for i, name := range c.args {
		if slices.Contains(c.args[:i], name) {
			return o, usagef("%q is given twice", name)
		}
	}
	if len(c.args) > 0 { // else run starts CMD as it is
		if err := launch.CheckNames(c.args, append(slices.Clone(c.dashed), l.config.Env...)...); err != nil {
			return o, usageError{err}
		}
	}
	if o.DrainSignal, err = signalName("--drain-signal", l.drainSignal); err != nil {
		return o, err
	}
	if changed := l.fs.Changed("blocking"); changed || l.config.Stdin {
		o.Blocking = new(l.blocks || !changed)
	}
	return o, nil
}

// words returns the given flags as words of a command line.
func (l *launchFlags) words() []string {
	var words []string
	l.fs.VisitAll(func(f *pflag.Flag) {
		values, many := f.Value.(pflag.SliceValue)
		switch {
		case !f.Changed:
		case many:
			for _, v := range values.GetSlice() {
				words = append(words, "--"+f.Name+"="+v)
			}
		default:
			words = append(words, "--"+f.Name+"="+f.Value.String())
		}
	})
	return words
}

// signalName returns a signal's name without "SIG", or "" for none.
func signalName(flag, text string) (string, error) {
	name := strings.TrimPrefix(strings.ToUpper(text), "SIG")
	switch {
	case name == "TERM": // the default must not make unix's table of signals: 1 % of a get's time
	case name == "NONE":
		return "", nil
	case unix.SignalNum("SIG"+name) == 0:
		return "", usagef("%s %q: there is no such signal; use TERM, QUIT, USR1 or another, or none", flag, text)
	}
	return name, nil
}

func defineGet(fs *pflag.FlagSet) action {
	l := defineLaunch(fs)
	wait := fs.String("wait", "", "wait until a broker answers, has the names, and has room for another holder: at most `DURATION`, as in --wait=30s")
	fs.Lookup("wait").NoOptDefVal = "forever"
	return func(ctx context.Context, c command) error {
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
			within, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			ctx = within
		}
		if _, startedByRun := os.LookupEnv(supervisor.StatusEnv); options.Wait && !startedByRun { // run logs why
			defer tellWaiting(c)()
		}
		return get(ctx, c, options, &l.config)
	}
}

// get gets the sockets and becomes the command. It returns only an error.
func get(ctx context.Context, c command, options broker.GetOptions, program *launch.Config) error {
	report := inheritedProgress()
	if !report.awaitStart() {
		return nil
	}
	program.Command, program.Environ = c.dashed, os.Environ()
	err := become(ctx, c, options, program, report)
	status := exitGet
	if e, ok := errors.AsType[*exitError](err); ok {
		status = e.status
	}
	if report.failed(err, status) {
		return &exitError{errReported, status}
	}
	return err
}

func become(ctx context.Context, c command, options broker.GetOptions, program *launch.Config, report *progress) error {
	if s := options.DrainSignal; s != "" && s != "TERM" { // SIGTERM ends a Go program anyway
		_ = launch.DefaultSignal(s) // fails for KILL and STOP, which cannot be ignored
	}
	if options.Wait { // a command that cannot be run must not take a place that becomes free
		if err := checkCommand(program.Command, program.Environ); err != nil {
			return err
		}
	}
	sockets, err := report.get(ctx, c.client, options, c.args)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("gave up waiting: %w", missing(c))
	}
	if err != nil {
		return err
	}
	for _, s := range sockets {
		program.Sockets = append(program.Sockets, launch.Socket(s))
	}
	p, err := launch.Prepare(*program)
	if err == nil {
		if err := withoutDescriptors(program); err != nil {
			complain(c.err, err)
		}
		err = p.ExecOnThread() // main has locked it
	}
	return &exitError{err, launch.ExitCode(err)}
}

// checkCommand returns why the command cannot be run, as far as that is known before there
// are sockets. A name with a placeholder is not known yet.
func checkCommand(command, environ []string) error {
	if strings.Contains(command[0], "{") {
		return nil
	}
	if _, err := launch.Find(command, environ); err != nil {
		return &exitError{err, launch.ExitCode(err)}
	}
	return nil
}

// quietTime is how long get waits before it says why.
const quietTime = time.Second

// tellWaiting says once why get waits, if it still waits after quietTime. Stop ends it.
func tellWaiting(c command) (stop func() bool) {
	return time.AfterFunc(quietTime, func() {
		if err := missing(c); err != errNotMissing {
			complain(c.err, fmt.Errorf("waiting: %w", err))
		}
	}).Stop
}

// missing says why a Get waits.
func missing(c command) error {
	list, err := listAgain(c.socket, time.Second)
	if err != nil {
		return err
	}
	var names []string
	for _, l := range list.Listeners {
		names = append(names, l.Name)
	}
	for _, name := range c.args {
		if !slices.Contains(names, name) {
			return &protocol.UnknownNameError{Name: name, Names: names}
		}
	}
	for _, l := range list.Listeners {
		if slices.Contains(c.args, l.Name) && l.Max > 0 && l.Holders >= l.Max {
			return &protocol.FullError{Name: l.Name, Max: l.Max, Holders: holdersOf(list, l.Name)}
		}
	}
	return errNotMissing
}

var errNotMissing = errors.New("what was missing is there now")

func holdersOf(list protocol.ListReply, name string) []protocol.Holder {
	return slices.DeleteFunc(slices.Clone(list.Holders), func(h protocol.Holder) bool {
		holds := h.State == protocol.StateActive || h.State == protocol.StateDraining
		return !holds || !slices.Contains(h.Names, name)
	})
}
