package supervisor

import (
	"cmp"
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

// Config describes the workers and their times. A time of 0 means the default, except ReadyAfter and Watchdog.
type Config struct {
	Command Command
	Workers int // that serve; at least 1
	Standby int // how many more wait for a place
	Surge   int // by how many a roll may exceed these two together; 0 means 1

	// NotifyReady makes a worker ready when it says READY=1 (sd_notify(3)). Without it, a
	// worker is ready once it has run for ReadyAfter.
	NotifyReady bool
	ReadyAfter  time.Duration
	// ReadyTimeout is how long a running worker may take until it is ready, and a worker that
	// a roll has started until it runs.
	ReadyTimeout time.Duration

	// RestartDelay is the first delay between two starts of a worker that does not live that
	// long, and RestartMax the longest.
	RestartDelay, RestartMax time.Duration
	// StopSignal asks a worker to stop; 0: SIGTERM. After Grace SIGKILL follows.
	StopSignal unix.Signal
	Grace      time.Duration
	// DrainSignal asks a worker to leave that the broker cannot ask; 0: none.
	DrainSignal unix.Signal

	// Deploy connects the workers with other deploys; nil: there are none.
	Deploy Deploy
	// Tell is called with how the workers are, in the words of sd_notify(3), unless it is
	// nil. It must not block for long.
	Tell func(states ...string)
	// Watchdog is how often Tell must get WATCHDOG=1; 0: never.
	Watchdog time.Duration
	Logger   zerolog.Logger // the zero one logs nothing

	// Requests is the address at which the supervisor can be asked for a roll, see [RequestAddress]; "": nowhere.
	Requests string

	// nudge is how long descriptors that a stranger sends to a readiness socket may hold up later messages.
	nudge time.Duration
}

// Command is the program of the workers.
type Command struct {
	Path string
	Argv []string
	Env  []string
	// Reports says that Path is a program that gets the worker's sockets, reports to
	// StatusEnv how far it has come, and then becomes the worker.
	Reports bool
	// Prestart, of a Command that reports, starts one worker ahead of its need; see [StartEnv].
	Prestart bool
}

func (c Config) withDefaults() (Config, error) {
	if d := min(c.ReadyTimeout, c.RestartDelay, c.RestartMax, c.Grace); d < 0 {
		return c, fmt.Errorf("a time of %v", d)
	}
	c.Surge = max(c.Surge, 1)
	c.ReadyTimeout = cmp.Or(c.ReadyTimeout, DefaultReadyTimeout)
	c.RestartDelay = cmp.Or(c.RestartDelay, DefaultRestartDelay)
	c.RestartMax = max(cmp.Or(c.RestartMax, DefaultRestartMax), c.RestartDelay)
	c.Grace = cmp.Or(c.Grace, DefaultGrace)
	c.nudge = cmp.Or(c.nudge, 10*time.Millisecond)
	c.StopSignal = cmp.Or(c.StopSignal, DefaultStopSignal)
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
