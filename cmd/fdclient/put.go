package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/broker/socket/holders"
	"github.com/fdbroker/fdbroker/internal/activation"
	"github.com/fdbroker/fdbroker/internal/launch"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
	"github.com/spf13/pflag"
)

var putVerb = verb{
	usage: "put NAME[,OPTION[=VALUE]]... [--fd N] [--any] [-- CMD [ARG...]]",
	help: `Stores a listening socket that another program opened, and prints its address. The
socket becomes the listener NAME, as if the broker had bound it. It is descriptor N or,
without --fd, a socket passed by a service manager (LISTEN_FDS): the one called NAME,
or the only one. The options are those of a spec; without them, the queue limit and
O_NONBLOCK stay as they are. With CMD, it then becomes 'fdclient get NAME -- CMD'. Only
root and the user that the broker runs as may do this.

  fdclient put web,allow=group:www --fd 3
  fdclient put web -- ./server             # in the service of a systemd .socket
  fdclient put state --any --fd 0 <state   # any open file, for 'fdclient get'

Exit status with CMD: that of 'fdclient get'.
`,
	define: definePut,
	takes:  arguments{1, 1, "put takes exactly one name"},
	runs:   true,
}

func definePut(fs *pflag.FlagSet) action {
	number := fs.Int("fd", -1, "store descriptor `N`")
	fs.Lookup("fd").DefValue = "0" // as pflag knows that there is none to show
	anything := fs.Bool("any", false, "store any descriptor: a pipe, a file, a memfd, a connected socket")
	return func(ctx context.Context, c command) error {
		if fs.Changed("fd") && *number < 0 {
			return usagef("--fd %d: use the number of an open descriptor", *number)
		}
		if c.dashed != nil && len(c.dashed) == 0 {
			return usagef("nothing to run after --")
		}
		name, options, err := nameAndOptions(c.args[0])
		if err != nil {
			return err
		}
		fd, err := donated(name, *number)
		if err == nil {
			err = put(ctx, c, broker.PutOptions{Options: options, Any: *anything}, name, fd)
		}
		if _, ok := errors.AsType[*exitError](err); err != nil && c.dashed != nil && !ok {
			return &exitError{err, exitGet}
		}
		return err
	}
}

// put stores fd, which it takes, and then becomes the command if there is one.
func put(ctx context.Context, c command, o broker.PutOptions, name string, fd *scmrights.FD) error {
	l, err := c.client.Put(ctx, o, name, fd)
	_ = fd.Close()
	if err != nil {
		return err
	}
	if c.dashed == nil {
		return c.printBound(l)
	}
	c.args = []string{name}
	return get(ctx, c, broker.GetOptions{DrainSignal: "TERM"}, &launch.Config{})
}

// donated returns a duplicate of descriptor number or, if that is negative, the descriptor
// that a service manager has passed for name. The caller must close it.
func donated(name string, number int) (*scmrights.FD, error) {
	if number >= 0 {
		// A duplicate, because number may be standard input or output.
		fd, err := scmrights.NewFD(number).Dup()
		if err != nil {
			err = fmt.Errorf("--fd %d: no such descriptor is open", number)
		}
		return fd, err
	}
	passed, err := activation.Take()
	if err != nil {
		return nil, err
	}
	chosen, err := choose(name, passed)
	for i, p := range passed {
		if i != chosen {
			_ = p.FD.Close()
		}
	}
	if err != nil {
		return nil, err
	}
	return passed[chosen].FD, nil
}

// choose returns which of the passed descriptors name means, or -1.
func choose(name string, passed []activation.Passed) (int, error) {
	called := func(p activation.Passed) bool { return p.Name == name }
	i := slices.IndexFunc(passed, called)
	switch {
	case len(passed) == 0:
		return -1, errors.New("no descriptor to put: give its number with --fd, or start fdclient with LISTEN_FDS as a service manager does")
	case i >= 0 && slices.ContainsFunc(passed[i+1:], called):
		return -1, fmt.Errorf("LISTEN_FDNAMES: more than one descriptor is called %q", name)
	case i >= 0:
		return i, nil
	case len(passed) == 1:
		return 0, nil
	}
	names := make([]string, len(passed))
	for i, p := range passed {
		names[i] = protocol.Printable(p.Name)
	}
	return -1, fmt.Errorf("LISTEN_FDNAMES: none of the %d descriptors is called %q; there are: %s", len(passed), name, strings.Join(names, ", "))
}

var adoptVerb = verb{
	usage: "adopt NAME[,OPTION[=VALUE]]... --pid PID [--address ADDRESS] [--drain-signal SIGNAL]",
	help: `Takes over the port of a running server, without a restart. It duplicates the socket
that the server listens on and stores it, as 'fdclient put' does; the server does not
notice. The server becomes its first holder. Other processes can get the listener from
now on, and once one has it, the server may be stopped. Needs permission to trace the
process (its own user or root), and to put.

  fdclient adopt web --pid 812
  fdclient adopt web,allow=group:www --pid 812 --address :80
  fdclient get --wait web -- ./server &        # and then: kill 812
`,
	define: defineAdopt,
	takes:  arguments{1, 1, "adopt takes exactly one name"},
}

func defineAdopt(fs *pflag.FlagSet) action {
	pid := fs.Int("pid", 0, "take the socket of process `PID`")
	address := fs.String("address", "", "if the process listens at more than one address, take `ADDRESS`, written as in a spec, such as :80 or unix:///run/app.sock")
	drain := fs.String("drain-signal", "TERM", "ask the server with `SIGNAL` to leave when a newer one takes over; none for no signal")
	return func(ctx context.Context, c command) error {
		if *pid <= 0 {
			return usagef("name the process with --pid PID")
		}
		signal, err := signalName("--drain-signal", *drain)
		if err != nil {
			return err
		}
		name, options, err := nameAndOptions(c.args[0])
		if err != nil {
			return err
		}
		fd, err := holders.FromProcess(*pid, *address)
		if err != nil {
			return err
		}
		defer fd.Close()
		l, err := c.client.Put(ctx, broker.PutOptions{Options: options, PID: *pid, DrainSignal: signal}, name, fd)
		if err != nil {
			return err
		}
		if l.Holders == 0 {
			fmt.Fprintf(c.err, "fdclient: the broker may not inspect pid %d, so list does not show it as a holder; the log of the broker says why\n", *pid)
		}
		return c.printBound(l)
	}
}

// nameAndOptions splits NAME[,OPTION[=VALUE]]...
func nameAndOptions(word string) (name, options string, err error) {
	if name, options, _ = strings.Cut(word, ","); name == "" {
		return "", "", usagef("%q does not begin with a name", word)
	}
	return name, options, nil
}
