//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/fdbroker/fdbroker/internal/complete"
	"github.com/fdbroker/fdbroker/internal/version"
	"github.com/spf13/pflag"
)

// Exit statuses of all verbs but get.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

const usage = `fdclient asks an fdbroker for listening sockets, and tells it what to bind.

Usage:
  fdclient [--socket PATH] VERB ...

Verbs:
  get NAME... -- CMD   run CMD with the sockets of these listeners open
  run NAME... -- CMD   keep such processes alive, and replace them without a gap
  list                 show the listeners, their queues and who holds them
  watch                print what happens, as it happens
  bind SPEC...         bind listeners
  unbind NAME...       close listeners
  drain NAME...        ask who holds listeners to leave
  put NAME             store a socket that was made elsewhere
  adopt NAME --pid N   store the socket of a server that runs
  reload               make the broker read its configuration file again
  upgrade              make the broker go on with the program that is now in its place
  addr NAME            print the address that a listener is bound to
  ping                 see whether a broker answers
  completion SHELL     print what makes a shell complete both commands
  version              print the version of fdclient

'fdclient VERB --help' tells more. The control socket is --socket, else
$FDBROKER_SOCKET, else /run/fdbroker/control for root, else
$XDG_RUNTIME_DIR/fdbroker/control, and /run/fdbroker/control for others than
root where that does not exist.

Exit status: 0 done, 1 refused or failed, 2 wrong usage; of get and run: 125 fdclient
itself failed, 126 CMD cannot be run, 127 CMD is not found, else CMD's own (of get).
`

// verb is one of fdclient's subcommands. Its flags are set by define, which returns
// what runs it.
type verb struct {
	name   string
	usage  string // what follows "fdclient"
	help   string
	define func(*pflag.FlagSet) action
	failed int  // exit status of a failure
	wrong  int  // exit status of wrong usage
	runs   bool // it runs a command, which "--" stands before
	// words completes an argument behind those that are there; nil where nothing does.
	words func(args []string, socket string) []complete.Word
}

// action runs a verb with its arguments.
type action func(ctx context.Context, c command) error

// command is what an action has to work with.
type command struct {
	socket string
	args   []string // of a verb that runs a command: before "--"
	dashed []string // behind it; nil without
	out    io.Writer
	err    io.Writer
}

func verbs() []verb {
	return []verb{getVerb, runVerb, listVerb, watchVerb, bindVerb, unbindVerb, drainVerb, putVerb, adoptVerb, reloadVerb, upgradeVerb, addrVerb, pingVerb, completionVerb, versionVerb}
}

// usageError is an error of whoever wrote the command line.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// run is the command: it returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var socket string
	var showVersion bool
	fs := rootFlags(&socket, &showVersion)
	err := fs.Parse(args)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		fmt.Fprint(stdout, usage)
		return exitOK
	case err != nil:
		return wrongUsage(stderr, "fdclient", plainly(err))
	case showVersion:
		fmt.Fprintln(stdout, "fdclient", version.Number)
		return exitOK
	case fs.NArg() == 0:
		return wrongUsage(stderr, "fdclient", errors.New("no verb"))
	case fs.Arg(0) == "help":
		return help(ctx, fs.Args()[1:], stdout, stderr)
	case fs.Arg(0) == complete.Verb:
		_ = answer(fs.Args()[1:]).Print(stdout)
		return exitOK
	}
	for _, v := range verbs() {
		if v.name == fs.Arg(0) {
			return v.run(ctx, socket, fs.Args()[1:], stdout, stderr)
		}
	}
	return wrongUsage(stderr, "fdclient", fmt.Errorf("unknown verb %q", fs.Arg(0)))
}

// help answers "fdclient help [VERB]".
func help(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stdout, usage)
		return exitOK
	}
	return run(ctx, []string{args[0], "--help"}, stdout, stderr)
}

// rootFlags are the flags before the verb.
func rootFlags(socket *string, showVersion *bool) *pflag.FlagSet {
	fs := newFlags("fdclient")
	fs.StringVar(socket, "socket", "", "`PATH` of the control socket")
	fs.BoolVar(showVersion, "version", false, "print the version and exit")
	fs.SetInterspersed(false) // the rest is the verb's
	return fs
}

// flags are the flags of a verb, and what runs it once they are parsed.
func (v verb) flags(socket *string) (*pflag.FlagSet, action) {
	fs := newFlags(v.name)
	act := v.define(fs)
	fs.StringVar(socket, "socket", *socket, "`PATH` of the control socket")
	return fs, act
}

func newFlags(name string) *pflag.FlagSet {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	fs.Usage = func() {}
	fs.SortFlags = false
	return fs
}

func wrongUsage(w io.Writer, command string, err error) int {
	fmt.Fprintf(w, "fdclient: %v\nTry '%s --help'.\n", err, command)
	return exitUsage
}

// run parses the verb's flags and runs it.
func (v verb) run(ctx context.Context, socket string, args []string, stdout, stderr io.Writer) int {
	fs, act := v.flags(&socket)
	err := fs.Parse(args)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		fmt.Fprintf(stdout, "Usage:\n  fdclient %s\n\n%s\nFlags:\n%s", v.usage, v.help, fs.FlagUsages())
		return exitOK
	case err != nil:
		wrongUsage(stderr, "fdclient "+v.name, plainly(err))
		return v.wrong
	}
	c := command{socket: socket, args: fs.Args(), out: stdout, err: stderr}
	if n := fs.ArgsLenAtDash(); n >= 0 && v.runs {
		c.args, c.dashed = fs.Args()[:n:n], fs.Args()[n:] // none grows into the other
	}
	err = act(ctx, c)
	if bad, ok := errors.AsType[*usageError](err); ok {
		wrongUsage(stderr, "fdclient "+v.name, bad)
		return v.wrong
	}
	if err != nil {
		return v.fail(stderr, err)
	}
	return exitOK
}

// fail says what went wrong, and what helps where that is known.
func (v verb) fail(w io.Writer, err error) int {
	complain(w, err)
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.status
	}
	return v.failed
}

// exitError is an error with an exit status of its own.
type exitError struct {
	error
	status int
}

func (e *exitError) Unwrap() error { return e.error }
