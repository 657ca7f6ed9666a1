package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/broker/deploy"
	"github.com/fdbroker/fdbroker/broker/socket/holders"
	"github.com/fdbroker/fdbroker/broker/supervisor"
	"github.com/fdbroker/fdbroker/internal/cli"
	"github.com/fdbroker/fdbroker/internal/launch"
	"github.com/fdbroker/fdbroker/internal/logging"
	"github.com/fdbroker/fdbroker/internal/notify"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
	"github.com/rs/zerolog"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

var runVerb = verb{
	usage: "run [NAME...] [flags] -- CMD [ARG...]",
	help: `Keeps workers running. A worker is 'fdclient get --wait NAME... -- CMD' or, without
names, CMD itself, which then asks the broker for its sockets. A worker that exits is
restarted at once; if it keeps failing, after a delay that doubles.

  SIGHUP            replaces all workers: each is stopped once a new one is ready;
                    'fdclient roll' does this as well, and says how it went
  SIGTTIN, SIGTTOU  adds a worker, removes one
  SIGTERM, SIGINT   stops the workers and exits; a second one kills them at once

With --replace, older workers of the same listeners are asked to leave once all new
ones are ready. The 'fdclient run' that started the older ones then exits.

  fdclient run web -n 4 -- ./server
  fdclient run web --replace --ready notify -- ./server-v2
  fdclient run -n 1 --standby 1 -- ./worker   # gets a listener with max=1 by itself

Exit status: 0 stopped, or replaced; 125 fdclient itself failed (wrong usage
included), 126 CMD cannot be run, 127 CMD is not found.
`,
	define: defineRun,
	takes:  arguments{most: many},
	status: exitGet,
	runs:   true,
	words:  otherNames,
}

// runFlags are the flags of run. The others are checked and then go into config.
type runFlags struct {
	config     supervisor.Config
	ready      string
	stopSignal string
	replace    bool
	// drainSignal is config.DrainSignal by its name.
	drainSignal string
	launch      *launchFlags
	log         logging.Flags
}

func defineRun(fs *pflag.FlagSet) action {
	var f runFlags
	c := &f.config
	fs.IntVarP(&c.Workers, "workers", "n", 1, "keep `N` workers alive")
	fs.IntVar(&c.Standby, "standby", 0, "keep `K` more workers started, which wait until a listener with max= has room")
	fs.StringVar(&f.ready, "ready", supervisor.DefaultReadyAfter.String(), "`WHEN` a worker counts as ready: once it has run for a duration such as 1s, or \"notify\" (sd_notify READY=1)")
	fs.DurationVar(&c.ReadyTimeout, "ready-timeout", supervisor.DefaultReadyTimeout, "stop a new worker that is not ready after `DURATION`")
	fs.BoolVar(&f.replace, "replace", false, "when all workers are ready, ask older workers of these listeners to leave")
	fs.IntVar(&c.Surge, "surge", 1, "when replacing, start at most `M` new workers before old ones are stopped")
	fs.DurationVar(&c.RestartDelay, "restart-delay", supervisor.DefaultRestartDelay, "wait `DURATION` before the second restart of a worker that keeps failing, then twice as long each time")
	fs.DurationVar(&c.RestartMax, "restart-max", supervisor.DefaultRestartMax, "wait at most `DURATION` before a restart")
	fs.StringVar(&f.stopSignal, "stop-signal", "TERM", "`SIGNAL` that stops a worker")
	fs.DurationVar(&c.Grace, "grace", supervisor.DefaultGrace, "kill a worker that has not stopped after `DURATION`")
	f.log.Define(fs)
	ofGet := cli.Flags("get")
	f.launch = defineLaunch(ofGet)
	fs.AddFlagSet(ofGet)
	return func(ctx context.Context, c command) error {
		if err := f.check(fs, c); err != nil {
			return err
		}
		return f.run(ctx, c)
	}
}

// check completes the configuration from the flags.
func (f *runFlags) check(fs *pflag.FlagSet, c command) error {
	options, err := f.launch.options(c)
	if err != nil {
		return err
	}
	f.drainSignal, f.config.DrainSignal = options.DrainSignal, unix.SignalNum("SIG"+options.DrainSignal)
	if words := f.launch.words(); len(c.args) == 0 && len(words) > 0 {
		return usagef("%s needs the name of a listener", words[0])
	}
	if err := f.log.Check(); err != nil {
		return usageError{err}
	}
	switch s := &f.config; {
	case s.Workers < 1:
		return usagef("-n %d: use 1 or more", s.Workers)
	case s.Standby < 0:
		return usagef("--standby %d: use 0 or more", s.Standby)
	case s.Surge < 1:
		return usagef("--surge %d: use 1 or more", s.Surge)
	}
	for _, name := range []string{"ready-timeout", "restart-delay", "restart-max", "grace"} {
		if d, err := fs.GetDuration(name); err != nil || d <= 0 {
			return usagef("--%s %v: use a duration such as 10s", name, d)
		}
	}
	signal, err := signalName("--stop-signal", f.stopSignal)
	if err != nil {
		return err
	}
	if signal == "" {
		return usagef("--stop-signal %s: a worker needs a signal to stop", f.stopSignal)
	}
	f.config.StopSignal = unix.SignalNum("SIG" + signal)
	if f.config.NotifyReady = f.ready == "notify"; f.config.NotifyReady {
		return nil
	}
	if f.config.ReadyAfter, err = time.ParseDuration(f.ready); err != nil || f.config.ReadyAfter < 0 {
		return usagef("--ready %s: use a duration such as 1s, or notify", f.ready)
	}
	return nil
}

// run keeps the workers alive.
func (f *runFlags) run(ctx context.Context, c command) error {
	log, lines := logging.New(c.err, f.log.Level, f.log.Format)
	defer lines.Close()
	manager, err := notify.FromEnvironment()
	if err != nil {
		log.Warn().Err(err).Msg("the service manager asks for something unsupported")
	}
	f.config.Logger, f.config.Requests = log, supervisor.RequestAddress(os.Getpid())
	if manager != nil {
		tell, done := tellLater(manager, log)
		defer done()
		f.config.Tell, f.config.Watchdog = tell, manager.Watchdog()
	}
	if f.config.Command, err = f.command(c); err != nil {
		return err
	}
	f.config.Deploy = deploy.New(deploy.Config{
		Socket: c.socket, Names: c.args, Replace: f.replace, Standby: f.config.Standby > 0, SocketOf: socketOf, DrainSignal: f.drainSignal, Logger: log,
	})
	signals, stop := runSignals()
	defer stop()
	// In another goroutine, because main is locked to the main thread: each event would wake that.
	ended := make(chan error)
	go func() { ended <- supervisor.Run(ctx, f.config, signals) }()
	err = <-ended
	if bad, ok := errors.AsType[*supervisor.StartError](err); ok {
		return &exitError{err, bad.Status}
	}
	return err
}

// socketOf returns a duplicate of a worker's socket. With Yama's ptrace_scope 1 only the worker's parent may take one.
func socketOf(pid int, network, address string) (*scmrights.FD, error) {
	return holders.FromProcess(pid, network+"://"+address)
}

// ownProgram is the file that this process runs.
const ownProgram = "/proc/self/exe"

// command returns the command of a worker.
func (f *runFlags) command(c command) (supervisor.Command, error) {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		key, _, _ := strings.Cut(kv, "=")
		return key == broker.GenerationEnv || key == supervisor.StatusEnv || key == supervisor.StartEnv
	})
	if len(c.args) == 0 {
		if c.socket != "" {
			env = append(env, protocol.SocketEnv+"="+c.socket)
		}
		path, argv, err := launch.Direct(c.dashed, env)
		if err != nil {
			return supervisor.Command{}, &exitError{err, launch.ExitCode(err)}
		}
		return supervisor.Command{Path: path, Argv: argv, Env: env}, nil
	}
	if err := checkCommand(c.dashed, env); err != nil { // now, not once there is a broker
		return supervisor.Command{}, err
	}
	if _, err := os.Stat(ownProgram); err != nil {
		return supervisor.Command{}, fmt.Errorf("run NAME... needs /proc to start workers: %w", err)
	}
	argv := []string{"fdclient", "get", "--wait"}
	if c.socket != "" {
		argv = append(argv, "--socket="+c.socket)
	}
	argv = append(argv, f.launch.words()...)
	argv = append(append(append(argv, c.args...), "--"), c.dashed...)
	return supervisor.Command{Path: ownProgram, Argv: argv, Env: env, Reports: true, Prestart: true}, nil
}

// runSignals returns the signals that run acts on, and a function that ends that. Signals that run was started with
// ignored stay ignored, also in its workers, except SIGTERM. SIGPIPE is caught, because a closed log must not end run,
// and workers would inherit an ignored SIGPIPE.
func runSignals() (<-chan os.Signal, func()) {
	signals, broken := make(chan os.Signal, 16), make(chan os.Signal, 1)
	for _, sig := range []os.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGTTIN, unix.SIGTTOU} {
		if sig == unix.SIGTERM || !signal.Ignored(sig) {
			signal.Notify(signals, sig)
		}
	}
	signal.Notify(broken, unix.SIGPIPE)
	return signals, func() {
		signal.Stop(signals)
		signal.Stop(broken)
	}
}

// tellLater returns a function that tells the service manager states without waiting for it. It drops states if the
// manager has not read many before. Done waits until the others are sent.
func tellLater(m *notify.Manager, log zerolog.Logger) (tell func(states ...string), done func()) {
	waiting, sent := make(chan []string, 64), make(chan struct{})
	go func() {
		defer close(sent)
		for states := range waiting {
			if err := m.Tell(states...); err != nil {
				log.Warn().Err(err).Msg("cannot notify the service manager")
			}
		}
	}()
	tell = func(states ...string) {
		select {
		case waiting <- states:
		default:
		}
	}
	return tell, func() {
		close(waiting)
		<-sent
	}
}
