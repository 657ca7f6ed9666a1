//go:build linux

package supervisor

import (
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// The defaults of a [Config].
const (
	DefaultReadyAfter   = time.Second
	DefaultReadyTimeout = 30 * time.Second
	DefaultRestartDelay = 100 * time.Millisecond
	DefaultRestartMax   = 10 * time.Second
	DefaultGrace        = 10 * time.Second
	DefaultStopSignal   = unix.SIGTERM
)

// Config says what to keep alive, and how.
type Config struct {
	Command Command
	// Workers is how many are to serve; at least 1.
	Workers int
	// Standby is how many more there are, which wait for a place.
	Standby int
	// Surge is by how many a roll may exceed these two together; 0 means 1.
	Surge int

	// NotifyReady makes a worker ready when it says READY=1 (sd_notify(3)); else it
	// is once it has run for ReadyAfter, where 0 means at once.
	NotifyReady bool
	ReadyAfter  time.Duration
	// ReadyTimeout is how long a worker that was started may take until it is ready,
	// and one that a roll has started until it runs; 0 means DefaultReadyTimeout.
	ReadyTimeout time.Duration

	// RestartDelay is the first delay between two starts of a worker that does not
	// live that long, and RestartMax the last; 0 means the default.
	RestartDelay, RestartMax time.Duration
	// StopSignal asks a worker to end, and is followed by SIGKILL after Grace; 0
	// means the default.
	StopSignal unix.Signal
	Grace      time.Duration

	// DrainSignal asks a worker to leave that the broker cannot ask; 0: nothing does.
	DrainSignal unix.Signal

	// Deploy is told of, and tells, what concerns other deploys; nil: there are none.
	Deploy Deploy
	// Tell is told how the workers are doing, in the words of sd_notify(3); nil:
	// nobody. It must not block for long.
	Tell func(states ...string)
	// Watchdog is how often Tell wants to hear WATCHDOG=1; 0: never.
	Watchdog time.Duration
	// Logger is silent if it is the zero one.
	Logger zerolog.Logger

	// nudge is how long somebody who sends descriptors to a worker's socket for
	// READY=1 can hold up what comes behind them; 0 means shortly.
	nudge time.Duration
}

// Command is what a worker runs.
type Command struct {
	Path string
	Argv []string
	Env  []string
	// Reports says that Path is a program that gets the worker's socket, reports
	// to StatusEnv how far it has come, and becomes the worker then.
	Reports bool
	// Prestart, of a Command that reports, starts one ahead of its need; see [StartEnv].
	Prestart bool
}

func (c Config) withDefaults() (Config, error) {
	c.Surge = max(c.Surge, 1)
	for _, d := range []struct {
		at      *time.Duration
		instead time.Duration
	}{
		{&c.ReadyTimeout, DefaultReadyTimeout},
		{&c.RestartDelay, DefaultRestartDelay},
		{&c.RestartMax, DefaultRestartMax},
		{&c.Grace, DefaultGrace},
		{&c.nudge, 10 * time.Millisecond},
	} {
		if *d.at < 0 {
			return c, fmt.Errorf("a time of %v", *d.at)
		}
		if *d.at == 0 {
			*d.at = d.instead
		}
	}
	c.RestartMax = max(c.RestartMax, c.RestartDelay)
	if c.StopSignal == 0 {
		c.StopSignal = DefaultStopSignal
	}
	if c.Tell == nil {
		c.Tell = func(...string) {}
	}
	switch {
	case c.Workers < 1:
		return c, errors.New("no worker to keep alive")
	case c.Standby < 0:
		return c, fmt.Errorf("%d workers on standby", c.Standby)
	case c.Command.Path == "" || len(c.Command.Argv) == 0:
		return c, errors.New("no command to run")
	}
	return c, nil
}
