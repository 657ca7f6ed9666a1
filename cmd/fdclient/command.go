package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/complete"
	"github.com/spf13/pflag"
)

// Exit statuses of all verbs except get and run.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// verb is one of fdclient's subcommands. It has act, or define if it has flags.
type verb struct {
	name   string
	usage  string // the words behind "fdclient"
	help   string
	act    action
	define func(*pflag.FlagSet) action
	takes  func(args []string) error // returns an error in the arguments; nil: there is none
	status int                       // of a failure and of wrong usage, if not 1 and 2
	runs   bool                      // it runs a command, which is behind "--"
	// words completes the argument behind args; nil: nothing does.
	words func(args []string, socket string) []complete.Word
}

// action runs a verb.
type action func(ctx context.Context, c command) error

// command is the input and output of an action.
type command struct {
	socket string
	client *broker.Client // of socket; verb.run closes it
	args   []string       // of a verb that runs a command: before "--"
	dashed []string       // behind it; nil without
	out    io.Writer
	err    io.Writer
}

// usageError is an error in the command line.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// exitError is an error with an exit status of its own.
type exitError struct {
	error
	status int
}

func (e *exitError) Unwrap() error { return e.error }

// nothing is the takes of a verb without arguments.
func nothing(args []string) error {
	if len(args) > 0 {
		return usagef("unexpected argument %q", args[0])
	}
	return nil
}

// one is the takes of a verb with one argument.
func one(text string) func([]string) error {
	return func(args []string) error {
		if len(args) != 1 {
			return usagef("%s", text)
		}
		return nil
	}
}

// some is the takes of a verb with at least one argument.
func some(text string) func([]string) error {
	return func(args []string) error {
		if len(args) == 0 {
			return usagef("%s", text)
		}
		return nil
	}
}

// flags returns the flags of a verb, and the action for when they are parsed.
func (v verb) flags(socket *string) (*pflag.FlagSet, action) {
	fs, act := newFlags(v.name), v.act
	if v.define != nil {
		act = v.define(fs)
	}
	fs.StringVar(socket, "socket", *socket, "`PATH` of the control socket")
	return fs, act
}

func newFlags(name string) *pflag.FlagSet {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	fs.Usage = func() {}
	fs.SortFlags = false
	return fs
}

// run parses the verb's flags and runs it. It returns the exit status.
func (v verb) run(ctx context.Context, socket string, args []string, stdout, stderr io.Writer) int {
	fs, act := v.flags(&socket)
	err := fs.Parse(args)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		fmt.Fprintf(stdout, "Usage:\n  fdclient %s\n\n%s\nFlags:\n%s", v.usage, v.help, fs.FlagUsages())
		return exitOK
	case err != nil:
		return v.fail(stderr, usagef("%v", flagError(err)))
	}
	client := broker.Client{Socket: socket}
	defer client.Close()
	c := command{socket: socket, client: &client, args: fs.Args(), out: stdout, err: stderr}
	if n := fs.ArgsLenAtDash(); n >= 0 && v.runs {
		c.args, c.dashed = fs.Args()[:n:n], fs.Args()[n:] // an append to args does not overwrite dashed
	}
	if v.takes != nil {
		err = v.takes(c.args)
	}
	if err == nil {
		err = act(ctx, c)
	}
	if err != nil {
		return v.fail(stderr, err)
	}
	return exitOK
}

// fail prints an error, with advice if there is any. It returns the exit status.
func (v verb) fail(w io.Writer, err error) int {
	if bad, ok := errors.AsType[*usageError](err); ok {
		return cmp.Or(v.status, wrongUsage(w, "fdclient "+v.name, bad))
	}
	complain(w, err)
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.status
	}
	return cmp.Or(v.status, exitFailed)
}

func wrongUsage(w io.Writer, command string, err error) int {
	fmt.Fprintf(w, "fdclient: %v\nTry '%s --help'.\n", err, command)
	return exitUsage
}

// flagError names the values of a flag, if err says that its value is no number or no duration.
func flagError(err error) error {
	invalid, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return err
	}
	f := invalid.GetFlag()
	name := "--" + f.Name
	if f.Shorthand != "" {
		name = "-" + f.Shorthand
	}
	switch f.Value.Type() {
	case "int", "int64":
		return fmt.Errorf("%s %q: use a number", name, invalid.GetValue())
	case "duration":
		return fmt.Errorf("%s %q: use a duration such as 10s", name, invalid.GetValue())
	}
	return err
}

// How often a verb looks for a broker again if there is none.
const (
	retryMin = 10 * time.Millisecond
	retryMax = 250 * time.Millisecond
)

// pause waits before another look, and makes the next wait longer. It fails if ctx is done.
func pause(ctx context.Context, wait *time.Duration) error {
	select {
	case <-time.After(*wait):
		*wait = min(2**wait, retryMax)
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// replyTime is how long a running broker may take for a reply that waits for nothing.
const replyTime = 5 * time.Second

// inTime calls ask with such a call, and says so if there is no reply in time.
func inTime(ctx context.Context, ask func(context.Context) error) error {
	within, cancel := context.WithTimeout(ctx, replyTime)
	defer cancel()
	err := ask(within)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return fmt.Errorf("no answer for %v from the broker that listens at the control socket: it is stopped or hangs", replyTime)
	}
	return err
}
