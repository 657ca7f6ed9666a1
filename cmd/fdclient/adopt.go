package main

import (
	"context"
	"fmt"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/broker/socket/holders"
	"github.com/spf13/pflag"
)

var adoptVerb = verb{
	name:  "adopt",
	usage: "adopt NAME[,OPTION[=VALUE]]... --pid PID [--address ADDRESS] [--drain-signal SIGNAL]",
	help: `Moves a server that runs onto the broker, without a restart: takes a duplicate of
the socket that it listens on, which it does not notice, and puts it, as 'fdclient
put' does. The server is its first holder; others may get it from now on, and once
they do, the server may be stopped. Takes the right to trace the process, as its own
user or root has, and what put takes.

  fdclient adopt web --pid 812
  fdclient adopt web,allow=group:www --pid 812 --address :80
  fdclient get --wait web -- ./server &        # and then: kill 812
`,
	define: defineAdopt,
	takes:  one("give one name"),
}

func defineAdopt(fs *pflag.FlagSet) action {
	pid := fs.Int("pid", 0, "the process that listens: `PID`")
	address := fs.String("address", "", "where it listens, if at more than one: `ADDRESS` as in a spec, such as :80 or unix:///run/app.sock")
	drain := fs.String("drain-signal", "TERM", "what asks the server to leave, when a newer one takes over: `SIGNAL`, or none")
	return func(ctx context.Context, c command) error {
		if *pid <= 0 {
			return usagef("say which process: --pid PID")
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
			fmt.Fprintf(c.err, "fdclient: the broker may not look into pid %d: list does not show it as a holder\n", *pid)
		}
		_, err = fmt.Fprintln(c.out, l.Name, l.Network, l.Address)
		return err
	}
}
