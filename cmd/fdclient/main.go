// Before main, the runtime would open files of its cgroup at 3 and 4, where sockets go, and follow their limits.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Command fdclient asks a running fdbroker for sockets, and tells it to bind and close listeners. See "fdclient --help".
//
// It reaches a broker only through package broker and, in run, broker/deploy; broker/supervisor keeps the workers of run.
// It keeps no state and opens no listener.
//
// A verb is a value of type verb, in a file of its own unless it is a single call (calls.go). Verbs may use each
// other's functions and command.go, but not the table of all verbs (verbs.go): only main.go and complete.go do.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/fdbroker/fdbroker/internal/cli"
	"github.com/fdbroker/fdbroker/internal/complete"
	"github.com/spf13/pflag"
)

// main handles no signal, so that a command that it becomes ignores the signals that fdclient was told
// to ignore, as far as Go allows.
func main() {
	// PR_SET_PDEATHSIG, which a supervisor may have set, survives an exec by the main thread only.
	runtime.LockOSThread()
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

// run is the command: it returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var socket string
	var showVersion bool
	fs := rootFlags(&socket, &showVersion)
	err := cli.Parse(fs, args, "a number")
	switch {
	case errors.Is(err, pflag.ErrHelp):
		fmt.Fprint(stdout, usage)
		return cli.OK
	case err != nil:
		return wrongUsage(stderr, "fdclient", err)
	case showVersion:
		fmt.Fprintln(stdout, "fdclient", cli.Version)
		return cli.OK
	case fs.NArg() == 0:
		return wrongUsage(stderr, "fdclient", errors.New("no command given"))
	case fs.Arg(0) == "help" && fs.NArg() == 1:
		fmt.Fprint(stdout, usage)
		return cli.OK
	case fs.Arg(0) == "help":
		return run(ctx, []string{fs.Arg(1), "--help"}, stdout, stderr)
	case fs.Arg(0) == complete.Verb:
		_ = answer(fs.Args()[1:]).Print(stdout)
		return cli.OK
	}
	if v := findVerb(fs.Arg(0)); v != nil {
		return v.run(ctx, socket, fs.Args()[1:], stdout, stderr)
	}
	return wrongUsage(stderr, "fdclient", fmt.Errorf("unknown command %q", fs.Arg(0)))
}

// rootFlags are the flags before the verb.
func rootFlags(socket *string, showVersion *bool) *pflag.FlagSet {
	fs := cli.Flags("fdclient")
	fs.StringVar(socket, "socket", "", "`PATH` of the control socket")
	fs.BoolVar(showVersion, "version", false, "print the version and exit")
	fs.SetInterspersed(false) // the rest is the verb's
	return fs
}
