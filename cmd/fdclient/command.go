package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/cli"
	"github.com/fdbroker/fdbroker/internal/complete"
	"github.com/fdbroker/fdbroker/internal/procfs"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/spf13/pflag"
)

// verb is one of fdclient's subcommands. It has act, or define if it has flags.
type verb struct {
	usage  string // the words behind "fdclient", of which the first is the verb's name
	help   string
	act    action
	define func(*pflag.FlagSet) action
	takes  arguments
	status int  // of a failure and of wrong usage, if not 1 and 2
	runs   bool // it runs a command, which is behind "--"
	// words completes the argument behind args; nil: nothing does.
	words func(args []string, socket string) []complete.Word
}

func (v *verb) name() string {
	name, _, _ := strings.Cut(v.usage, " ")
	return name
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
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// exitError is an error with an exit status of its own.
type exitError struct {
	error
	status int
}

func (e *exitError) Unwrap() error { return e.error }

// errReported is an error of which somebody else tells the user.
var errReported = errors.New("reported to fdclient run")

// arguments is how many arguments a verb takes; the zero value: none.
type arguments struct {
	least, most int
	wrong       string // the error of another number
}

// many is the most arguments of a verb that has no limit.
const many = math.MaxInt

func (a arguments) check(args []string) error {
	switch {
	case a.most == 0 && len(args) > 0:
		return usagef("unexpected argument %q", args[0])
	case len(args) < a.least, len(args) > a.most:
		return usagef("%s", a.wrong)
	}
	return nil
}

// flags returns the flags of a verb, and the action for when they are parsed.
func (v *verb) flags(socket *string) (*pflag.FlagSet, action) {
	fs, act := cli.Flags(v.name()), v.act
	if v.define != nil {
		act = v.define(fs)
	}
	fs.StringVar(socket, "socket", *socket, "`PATH` of the control socket")
	return fs, act
}

// run parses the verb's flags and runs it. It returns the exit status.
func (v *verb) run(ctx context.Context, socket string, args []string, stdout, stderr io.Writer) int {
	fs, act := v.flags(&socket)
	err := cli.Parse(fs, args, "a number")
	switch {
	case errors.Is(err, pflag.ErrHelp):
		fmt.Fprintf(stdout, "Usage:\n  fdclient %s\n\n%s\nFlags:\n%s", v.usage, v.help, fs.FlagUsages())
		return cli.OK
	case err != nil:
		return v.fail(stderr, usageError{err})
	}
	client := broker.Client{Socket: socket}
	defer client.Close()
	c := command{socket: socket, client: &client, args: fs.Args(), out: stdout, err: stderr}
	if n := fs.ArgsLenAtDash(); n >= 0 && v.runs {
		c.args, c.dashed = fs.Args()[:n:n], fs.Args()[n:] // an append to args does not overwrite dashed
	}
	if err = v.takes.check(c.args); err == nil {
		err = act(ctx, c)
	}
	if err != nil {
		return v.fail(stderr, err)
	}
	return cli.OK
}

// fail prints an error, with advice if there is any. It returns the exit status.
func (v *verb) fail(w io.Writer, err error) int {
	if bad, ok := errors.AsType[usageError](err); ok {
		return cmp.Or(v.status, wrongUsage(w, "fdclient "+v.name(), bad))
	}
	if !errors.Is(err, errReported) {
		complain(w, err)
	}
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.status
	}
	return cmp.Or(v.status, cli.Failed)
}

func wrongUsage(w io.Writer, command string, err error) int {
	fmt.Fprintf(w, "fdclient: %v\nTry '%s --help'.\n", err, command)
	return cli.Usage
}

// complain prints an error, with advice if there is any.
func complain(w io.Writer, err error) {
	cli.Complain(w, "fdclient", withUserName(err))
	adviseAdopt(w, err)
	switch {
	case errors.Is(err, broker.ErrNoBroker) && errors.Is(err, fs.ErrPermission):
		fmt.Fprintf(w, "Ask its owner about --socket-group and --socket-mode, or start a broker of your own: %s\n", ownBroker())
	case hiddenBroker(err) != 0:
		fmt.Fprintf(w, "The broker (pid %d) runs, but its socket is gone. It makes the socket again as soon as it can; its log says what is in the way.\n", hiddenBroker(err))
	case errors.Is(err, broker.ErrNoBroker) && !mayListen(err):
		fmt.Fprintf(w, "Start one of your own with: %s      (name its socket with --socket or FDBROKER_SOCKET)\n", ownBroker())
	case errors.Is(err, broker.ErrNoBroker):
		fmt.Fprintf(w, "Start one with: fdbroker %s--bind web=:9000      (or name its socket with --socket or FDBROKER_SOCKET)\n", socketFlag(err))
	}
}

// adviseAdopt says how to take over an address that one other process has in use.
func adviseAdopt(w io.Writer, err error) {
	failed, ok := errors.AsType[*protocol.BindFailedError](err)
	if !ok {
		return
	}
	for _, f := range failed.Failures {
		name, _, isSpec := strings.Cut(f.Spec, "=")
		if isSpec && len(f.Processes) == 1 && strings.Contains(f.Message, "by pid") {
			fmt.Fprintf(w, "To take it over while it runs: fdclient adopt %s --pid %d\n", protocol.Printable(name), f.Processes[0].PID)
		}
	}
}

// withUserName returns err with the name of the user who may not get a listener, if it has one.
func withUserName(err error) error {
	denied, ok := errors.AsType[*protocol.UnknownNameError](err)
	if !ok || denied.UID == 0 {
		return err
	}
	uid := fmt.Sprintf("uid %d", denied.UID)
	if name := userName(denied.UID); "uid "+name != uid {
		return errors.New(strings.Replace(err.Error(), uid, "user "+name+" ("+uid+")", 1))
	}
	return err
}

// mayListen reports whether a broker of this user can listen where fdclient has looked: at its default path, or at one
// that somebody has named.
func mayListen(err error) bool {
	none, ok := errors.AsType[*broker.NoBrokerError](err)
	_, defaultErr := protocol.ListenPath(os.Geteuid(), os.Getenv)
	return !ok || defaultErr == nil || none.Paths[0] != protocol.SystemSocket
}

// ownBroker is a command line that starts a broker of this user at a path that is writable.
func ownBroker() string {
	path, err := protocol.ListenPath(os.Geteuid(), func(name string) string {
		if name == protocol.SocketEnv {
			return ""
		}
		return os.Getenv(name)
	})
	if err != nil {
		path = filepath.Join(cmp.Or(os.Getenv("HOME"), "."), ".fdbroker", "control")
	}
	return "fdbroker --socket " + protocol.Printable(path) + " --bind web=:9000"
}

// hiddenBroker returns the broker that has the lock of a control socket which is not there, or 0.
func hiddenBroker(err error) int {
	none, ok := errors.AsType[*broker.NoBrokerError](err)
	if !ok {
		return 0
	}
	for i, path := range none.Paths {
		if !errors.Is(none.Errs[i], fs.ErrNotExist) {
			continue
		}
		if pid := procfs.Locker(path + ".lock"); pid != 0 {
			return pid
		}
	}
	return 0
}

// socketFlag returns the flag that makes a broker listen at the path at which fdclient has looked, or nothing if that
// is the default.
func socketFlag(err error) string {
	none, ok := errors.AsType[*broker.NoBrokerError](err)
	if !ok || len(none.Paths) != 1 {
		return ""
	}
	getenv := func(name string) string {
		if name == protocol.SocketEnv {
			return ""
		}
		return os.Getenv(name)
	}
	if path, err := protocol.ListenPath(os.Geteuid(), getenv); err == nil && path == none.Paths[0] {
		return ""
	}
	return "--socket " + protocol.Printable(none.Paths[0]) + " "
}

// printBound prints a listener with what was really bound, and says if it would not outlive the broker, or if the kernel
// gives it less than was asked for.
func (c *command) printBound(l protocol.Listener) error {
	if l.Unstored != "" {
		fmt.Fprintf(c.err, "fdclient: %s would not outlive the broker: %s\n", protocol.Printable(l.Name), protocol.Printable(l.Unstored))
	}
	for _, what := range l.Capped {
		fmt.Fprintf(c.err, "fdclient: %s: %s\n", protocol.Printable(l.Name), protocol.Printable(what))
	}
	_, err := fmt.Fprintln(c.out, l.Name, l.Network, l.Address)
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
func inTime[T any](ctx context.Context, ask func(context.Context) (T, error)) (T, error) {
	within, cancel := context.WithTimeout(ctx, replyTime)
	defer cancel()
	reply, err := ask(within)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = fmt.Errorf("no answer for %v from the broker that listens at the control socket: it is suspended or hung", replyTime)
	}
	return reply, err
}

// listAgain lists in a call of its own, for a verb whose own call is under way, or took its time.
func listAgain(socket string, limit time.Duration) (protocol.ListReply, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	client := broker.Client{Socket: socket}
	defer client.Close()
	return client.List(ctx)
}
