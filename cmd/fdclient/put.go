package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/activation"
	"github.com/fdbroker/fdbroker/internal/launch"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

var putVerb = verb{
	name:  "put",
	usage: "put NAME[,OPTION[=VALUE]]... [--fd N] [--any] [-- CMD [ARG...]]",
	help: `Stores a listening socket that something else has opened: the broker makes it the
listener NAME, as if it had bound it, and prints its address. It is descriptor N or,
without --fd, the socket that a service manager has passed (LISTEN_FDS): the one
called NAME, or the only one. Options are those of a spec; a queue's length and
O_NONBLOCK stay as they are where no option says otherwise. With CMD, it then becomes
'fdclient get NAME -- CMD'. Only root and the user that the broker runs as may do this.

  fdclient put web,allow=group:www --fd 3
  fdclient put web -- ./server             # in the service of a systemd .socket
  fdclient put state --any --fd 0 <state   # any open file, for 'fdclient get'

Exit status with CMD: that of 'fdclient get'.
`,
	define: definePut,
	takes:  one("give one name"),
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
			return usagef("no command behind --")
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

// nameAndOptions splits NAME[,OPTION[=VALUE]]...
func nameAndOptions(word string) (name, options string, err error) {
	if name, options, _ = strings.Cut(word, ","); name == "" {
		return "", "", usagef("%q begins with no name", word)
	}
	return name, options, nil
}

// put stores fd, which it takes, and then becomes the command if there is one.
func put(ctx context.Context, c command, o broker.PutOptions, name string, fd *scmrights.FD) error {
	l, err := c.client.Put(ctx, o, name, fd)
	_ = fd.Close()
	if err != nil {
		return err
	}
	if c.dashed == nil {
		_, err = fmt.Fprintln(c.out, l.Name, l.Network, l.Address)
		return err
	}
	c.args = []string{name}
	return get(ctx, c, broker.GetOptions{DrainSignal: "TERM"}, launch.Config{Command: c.dashed})
}

// donated returns a duplicate of descriptor number or, if that is negative, the descriptor
// that a service manager has passed for name. The caller must close it.
func donated(name string, number int) (*scmrights.FD, error) {
	if number >= 0 {
		// A duplicate, because number may be standard input or output.
		n, err := unix.FcntlInt(uintptr(number), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("--fd %d: no such descriptor is open", number)
		}
		return scmrights.NewFD(n), nil
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
