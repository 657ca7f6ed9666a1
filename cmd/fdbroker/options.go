package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/cli"
	"github.com/fdbroker/fdbroker/internal/complete"
	"github.com/fdbroker/fdbroker/internal/logging"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
	"github.com/spf13/pflag"
)

const usage = `fdbroker owns listening sockets and gives duplicates of them to processes that ask by
name, so that no port closes when a server crashes, restarts or is replaced.

Usage:
  fdbroker [--config FILE] [--bind NAME=ADDRESS[,OPTION[=VALUE]]...]... [flags]

Addresses:
  :9000  host:9000  [::1]:9000  9000  NETWORK://ADDRESS
  with NETWORK one of tcp tcp4 tcp6 udp udp4 udp6 unix unixpacket unixgram,
  such as unix:///run/app.sock or unix://@abstract

Options of a listener:
  backlog=N allow=WHO[+WHO]... max=N mode=0660 user=NAME group=NAME v6only
  freebind transparent device=IF mark=N defer-accept=DUR fastopen=N nodelay
  keepalive[=IDLE/INTERVAL/COUNT] user-timeout=DUR congestion=NAME tos=N
  rcvbuf=BYTES sndbuf=BYTES mkdir[=MODE] blocking
  with WHO one of user:NAME uid:N group:NAME gid:N any; without allow, the
  user that the broker runs as and root

Flags:
%s
The control socket is --socket, else $FDBROKER_SOCKET, else
/run/fdbroker/control for root, else $XDG_RUNTIME_DIR/fdbroker/control.

SIGHUP, or 'fdclient reload', reads --config again; listeners that are unchanged there
keep their sockets. A service manager may pass sockets (LISTEN_FDS). A socket with the
name of a listener is used instead of binding; any other becomes a new listener.

The sockets outlive a crash of the broker: a parent process, the keeper, or systemd's
store has them too, and the next broker continues with them. SIGTERM and SIGINT stop
the broker and its keeper. SIGUSR2, or 'fdclient upgrade', replaces the running broker
with the program now on disk.

Exit status: 0 stopped by SIGTERM or SIGINT, 1 could not start or continue, 2 wrong
usage or configuration.
`

// options is the parsed command line.
type options struct {
	binds    []string
	config   string
	control  server.ControlConfig
	server   server.Config
	logFlags logging.Flags
	check    bool
	store    string

	// As they are written; parse makes control of them.
	socket, mode, group string

	version bool
}

// errDone says that all that was asked for is done, and there is nothing to run.
var errDone = errors.New("done")

// define returns the flags, which set o.
func (o *options) define() *pflag.FlagSet {
	fs := cli.Flags("fdbroker")
	fs.StringArrayVar(&o.binds, "bind", nil, "bind the listener of `SPEC`, which is NAME=ADDRESS[,OPTION[=VALUE]]...; may be given many times")
	fs.StringVar(&o.config, "config", "", "read specs from the regular file `FILE`, one a line; lines that begin with # are comments")
	fs.StringVar(&o.socket, "socket", "", "`PATH` of the control socket")
	fs.StringVar(&o.mode, "socket-mode", "", "`MODE` of the control socket (default 0600, or 0660 with --socket-group)")
	fs.StringVar(&o.group, "socket-group", "", "`GROUP` of the control socket, by name or number")
	fs.IntVar(&o.server.MaxClients, "max-clients", server.DefaultMaxClients, "serve at most `N` connections at a time")
	fs.IntVar(&o.server.MaxClientsPerUID, "max-clients-per-uid", server.DefaultMaxClientsPerUID, "serve at most `N` connections from any one other user than root and the broker's own")
	fs.IntVar(&o.server.MaxGrantsPerUID, "max-grants-per-uid", server.DefaultMaxGrantsPerUID, "let at most `N` processes of any one such user hold listeners")
	fs.IntVar(&o.server.MaxNames, "max-names", server.DefaultMaxNames, "bind at most `N` listeners")
	fs.IntVar(&o.server.MaxNamesInCall, "max-names-per-call", protocol.MaxNamesInCall, "hand out at most `N` sockets in one call")
	fs.IntVar(&o.server.MaxMessage, "max-message", protocol.MaxMessage, "accept calls of at most `BYTES`")
	fs.DurationVar(&o.server.CallTimeout, "call-timeout", server.DefaultCallTimeout, "disconnect a client that has not completed a call after `DURATION`")
	fs.BoolVar(&o.server.NoRecover, "no-recover", false, "when starting, do not recover sockets from the workers of a previous broker")
	o.logFlags.Define(fs)
	fs.StringVar(&o.store, "store", storeAuto, "keep a copy of each socket outside the broker, in `STORE`: systemd, keeper (a parent process), none, or auto for systemd's if it offers one, else a keeper")
	fs.BoolVar(&o.check, "check", false, "check flags and configuration, print what would be bound and what this machine would refuse, and exit")
	fs.BoolVar(&o.version, "version", false, "print the version and exit")
	return fs
}

// parse reads the command line. Help and the like goes to out.
func parse(args []string, out io.Writer) (options, error) {
	o := options{server: server.Config{Version: cli.Version}}
	fs := o.define()
	if len(args) > 0 && args[0] == complete.Verb {
		values := logging.FlagValues()
		values["store"] = []string{storeAuto, storeSystemd, storeKeeper, storeNone}
		return o, errors.Join(errDone, complete.Flags(out, fs, args[1:], values))
	}
	err := cli.Parse(fs, args, "a number from 1 up")
	switch {
	case errors.Is(err, pflag.ErrHelp):
		fmt.Fprintf(out, usage, fs.FlagUsages())
		return o, errDone
	case err != nil:
		return o, err
	case o.version:
		fmt.Fprintln(out, "fdbroker", cli.Version)
		return o, errDone
	case fs.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q (a listener is given with --bind NAME=ADDRESS)", fs.Arg(0))
	}
	if err := o.logFlags.Check(); err != nil {
		return o, err
	}
	if !slices.Contains([]string{storeAuto, storeSystemd, storeKeeper, storeNone}, o.store) {
		return o, fmt.Errorf("--store %q: use auto, systemd, keeper or none", o.store)
	}
	if err := checkLimits(fs); err != nil {
		return o, err
	}
	if n := o.server.MaxNamesInCall; n > scmrights.MaxFDs {
		return o, fmt.Errorf("--max-names-per-call %d: one message carries at most %d sockets", n, scmrights.MaxFDs)
	}
	return o, o.parseControl()
}

// checkLimits refuses the limits that would mean the default, or nothing.
func checkLimits(fs *pflag.FlagSet) (err error) {
	fs.Visit(func(f *pflag.Flag) {
		switch f.Value.Type() {
		case "int":
			if n, _ := strconv.Atoi(f.Value.String()); n < 1 {
				err = fmt.Errorf("--%s %s: must be at least 1", f.Name, f.Value)
			}
		case "duration":
			if s := f.Value.String(); s == "0s" || strings.HasPrefix(s, "-") {
				err = fmt.Errorf("--%s %s: must be more than 0s", f.Name, s)
			}
		}
	})
	return err
}

// parseControl sets path, mode and group of the control socket.
func (o *options) parseControl() (err error) {
	if o.control.Path = o.socket; o.socket == "" {
		if o.control.Path, err = protocol.ListenPath(os.Geteuid(), os.Getenv); err != nil {
			return err
		}
	}
	if o.group != "" {
		gid, err := groupID(o.group)
		if err != nil {
			return fmt.Errorf("--socket-group %s: %w", o.group, err)
		}
		o.control.GID = &gid
		o.control.Mode = 0o660
	}
	if o.mode != "" {
		m, err := strconv.ParseUint(o.mode, 8, 32)
		if err != nil || m == 0 || m > 0o777 {
			return fmt.Errorf("--socket-mode %q: use an octal number up to 0777, such as 0660", o.mode)
		}
		o.control.Mode = os.FileMode(m)
	}
	return nil
}

// groupID returns the number of a group given by name or number.
func groupID(name string) (int, error) {
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(n), nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(g.Gid)
}
