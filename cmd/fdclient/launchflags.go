package main

import (
	"slices"
	"strings"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/launch"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

// launchFlags say how a command gets its sockets. Get and run have them.
type launchFlags struct {
	fs                      *pflag.FlagSet
	stdin, noListen, blocks bool
	env                     []string
	drainSignal             string
}

func defineLaunch(fs *pflag.FlagSet) *launchFlags {
	l := &launchFlags{fs: fs}
	fs.BoolVar(&l.stdin, "stdin", false, "give CMD the one socket as standard input, and set no LISTEN_*")
	fs.BoolVar(&l.noListen, "no-listen-env", false, "set no LISTEN_*")
	fs.StringArrayVar(&l.env, "env", nil, "set an environment variable of CMD: `K=TEMPLATE`; may be given many times")
	fs.BoolVar(&l.blocks, "blocking", false, "CMD needs blocking sockets (implied by --stdin; --blocking=false: non-blocking ones)")
	fs.StringVar(&l.drainSignal, "drain-signal", "TERM", "`SIGNAL` that asks CMD to stop accepting and leave, or none")
	return l
}

// options returns the options of the call, or an error in the command line.
func (l *launchFlags) options(c command) (o broker.GetOptions, err error) {
	if len(c.dashed) == 0 {
		return o, usagef("no command: put -- and the command behind the names")
	}
	if l.stdin && len(c.args) > 1 {
		return o, usagef("--stdin is for one socket, and there are %d names", len(c.args))
	}
	for i, name := range c.args {
		if slices.Contains(c.args[:i], name) {
			return o, usagef("%q is given twice", name)
		}
	}
	if o.DrainSignal, err = signalName("--drain-signal", l.drainSignal); err != nil {
		return o, err
	}
	if l.stdin || l.fs.Changed("blocking") {
		o.Blocking = new(l.blocks || l.stdin && !l.fs.Changed("blocking"))
	}
	return o, nil
}

// config returns how to run the command.
func (l *launchFlags) config(c command) launch.Config {
	return launch.Config{Stdin: l.stdin, NoListenEnv: l.noListen, Env: l.env, Command: c.dashed}
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
