// Package keeper is a file descriptor store for a broker whose service manager offers none. It is the broker's parent
// process: it holds the broker's descriptors, starts the broker, and starts it again if it ends.
//
// It may only hold descriptors, relay messages and signals, and start a program. It must
// never use the descriptors, and must stay too small to crash.
//
// The broker speaks the protocol of sd_notify(3) over a pair of sockets (SOCK_SEQPACKET):
// FDSTORE=1 with FDNAME= and one descriptor stores that, FDSTOREREMOVE=1 with FDNAME= removes
// it. The keeper relays all other messages to its own service manager, if it has one. Each
// broker that it starts gets everything as sd_listen_fds(3) has it, its end of the pair last.
package keeper

import (
	"cmp"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/fdbroker/fdbroker/internal/backoff"
	"github.com/rs/zerolog"
)

// Config describes a keeper and its broker.
type Config struct {
	// Program is the file to start, Args its arguments with the name first, and Env its environment.
	Program string
	Args    []string
	Env     []string
	// StoreEnv is the variable that tells the broker which descriptor is its end of the pair, as NUMBER:INODE.
	StoreEnv string
	// Held is in the store from the beginning. Run takes it.
	Held []Held
	// Running is a broker that this process has started already, and Pair our end of the pair
	// with it, which Run takes; 0: there is none.
	Running int
	Pair    *os.File
	// Signals are those that the process gets. The keeper relays all; SIGTERM and SIGINT end it.
	Signals <-chan os.Signal
	// Relay sends a message to the service manager.
	Relay func(text string) error
	// Renewed is called when a broker is ready that runs another program than this process. It replaces this process by
	// that program, and borrows its arguments. If it returns, that has failed.
	Renewed func(pid int, held []Held, pair *os.File) error
	// ReadyTime is how long another program that takes over in the broker's process may take
	// to be ready; 0: 30 seconds.
	ReadyTime time.Duration
	// Logger gets an event for each broker that has to be started again.
	Logger zerolog.Logger
}

const (
	delayMax  = 5 * time.Second        // before a broker is started again that did not live long
	readyTime = 30 * time.Second       // the default of Config.ReadyTime
	longLived = 200 * time.Millisecond // a broker that was ready for longer is started again at once
	drainTime = time.Second            // for the messages that a broker has sent before its exit
)

// keeper is the state of a [Run].
type keeper struct {
	Config
	held      held
	child     *child // nil while none runs
	since     time.Time
	everReady bool // a broker has been ready once: from then on one must always run
	stopping  bool
	delays    backoff.Backoff // Last is the delay before the next start
	restart   <-chan time.Time
	overdue   <-chan time.Time // when a broker that is restarting in place must be ready; nil: none is
	early     []syscall.Signal // for a broker that is not ready
}

// Run holds descriptors and keeps a broker running, until the broker ends by itself or by
// SIGTERM or SIGINT, or cannot be started the first time. It returns the exit status.
func Run(c Config) (status int) {
	k := &keeper{Config: c, held: c.Held, delays: backoff.Backoff{Max: delayMax}}
	k.ReadyTime = cmp.Or(k.ReadyTime, readyTime)
	defer k.held.close()
	if c.Running != 0 {
		k.everReady = true
		var err error
		if k.child, err = watch(c.Running, c.Pair); err != nil {
			k.Logger.Error().Err(err).Msg("cannot listen for the broker's messages")
			return 1
		}
		k.child.ready, k.since = true, time.Now()
	} else if !k.start() {
		return 1
	}
	for {
		if status, done := k.turn(); done {
			return status
		}
	}
}

// start starts a broker, and reports whether that worked.
func (k *keeper) start() bool {
	var err error
	k.restart = nil
	if k.child, err = start(k.Config, k.held); err != nil {
		k.Logger.Error().Err(err).Msg("cannot start the broker")
		return false
	}
	k.since = time.Now()
	return true
}

// turn handles one event.
func (k *keeper) turn() (status int, done bool) {
	var messages chan message
	var ended chan syscall.WaitStatus
	if k.child != nil {
		messages, ended = k.child.messages, k.child.ended
	}
	select {
	case s := <-k.Signals:
		return k.signal(s.(syscall.Signal))
	case m, ok := <-messages:
		if ok {
			k.received(m)
			k.child.next <- struct{}{}
		} else {
			k.child.messages = nil // ended reports its exit
		}
	case how := <-ended:
		return k.ended(how)
	case <-k.overdue:
		k.late()
	case <-k.restart:
		if !k.start() {
			k.again()
		}
	}
	return 0, false
}

// late kills a broker that should have been ready by now, if another program has taken over
// in its process: then ours is started. Otherwise it may still read its configuration.
func (k *keeper) late() {
	k.overdue = nil
	if k.runsOther() {
		k.Logger.Error().Int64("timeout_ms", k.ReadyTime.Milliseconds()).Msg("killed the new program: it was not ready in time")
		k.child.signal(syscall.SIGKILL)
	}
}

// runsOther reports whether the broker runs another program than this process.
func (k *keeper) runsOther() bool {
	return k.child != nil && !same("/proc/self/exe", "/proc/"+strconv.Itoa(k.child.pid)+"/exe")
}

// signal relays a signal.
func (k *keeper) signal(s syscall.Signal) (status int, done bool) {
	if s == syscall.SIGTERM || s == syscall.SIGINT {
		if k.child == nil {
			return 0, true
		}
		switch {
		case k.stopping: // a second one kills at once
			s = syscall.SIGKILL
		case k.child.restarting && k.runsOther(): // it may not handle signals yet, and has files to remove
			k.early = append(k.early, s)
			k.stopping = true
			return 0, false
		}
		k.stopping = true
	}
	if (s == syscall.SIGHUP || s == syscall.SIGUSR2) && (k.child == nil || !k.child.ready) {
		k.early = append(k.early, s) // it may not handle signals yet, and would be killed
		return 0, false
	}
	k.child.signal(s)
	return 0, false
}

// received handles a message of the broker.
func (k *keeper) received(m message) {
	if m.lost {
		k.Logger.Error().Msg("a descriptor could not be stored, and would not outlive the broker: raise the limit of open files (ulimit -n, LimitNOFILE=)")
		return
	}
	if k.held.apply(m) {
		return
	}
	k.relay(m)
	if m.has("READY=1") && !k.stopping && len(k.Signals) == 0 && k.runsOther() {
		if err := k.Renewed(k.child.pid, k.held, k.child.end); err != nil {
			k.Logger.Error().Err(err).Msg("cannot run the new program as keeper; the old one continues")
		}
	}
}

// relay sends m to the service manager, and notes whether the broker is ready.
func (k *keeper) relay(m message) {
	if m.has("RELOADING=1") {
		k.child.ready, k.child.restarting = false, true
		k.overdue = time.After(k.ReadyTime)
	}
	if m.has("STOPPING=1") {
		k.child.restarting = false
	}
	if m.has("READY=1") {
		k.child.ready, k.child.restarting, k.everReady, k.since = true, false, true, time.Now()
		k.overdue = nil
		for _, s := range k.early {
			k.child.signal(s)
		}
		k.early = nil
	}
	if err := k.Relay(m.text); err != nil {
		k.Logger.Warn().Err(err).Msg("cannot notify the service manager")
	}
}

// same reports whether two names are one file, or one of them cannot be looked at.
func same(a, b string) bool {
	x, err := os.Stat(a)
	y, yerr := os.Stat(b)
	return err != nil || yerr != nil || os.SameFile(x, y)
}

// ended handles the last messages of a broker that has exited, and decides whether to go on.
func (k *keeper) ended(how syscall.WaitStatus) (status int, done bool) {
	limit := time.After(drainTime)
	for open := k.child.messages != nil; open; {
		select {
		case m, ok := <-k.child.messages:
			if open = ok; !ok {
				break
			}
			if !k.held.apply(m) {
				k.relay(m)
			}
			k.child.next <- struct{}{}
		case <-limit:
			open = false
		}
	}
	ready, restarting := k.child.ready, k.child.restarting
	k.child.close()
	k.child, k.overdue = nil, nil
	killed := how.Signaled() && len(k.held) > 0 // a broker answers before it is ready: what it has stored is in use
	if k.stopping || !k.everReady && !killed || code(how) == 0 && !restarting {
		return code(how), true
	}
	if ready && time.Since(k.since) >= longLived {
		k.delays.Last = 0
	}
	l := k.Logger.Error()
	if k.delays.Last > 0 {
		l.Int64("wait_ms", k.delays.Last.Milliseconds())
	}
	if ready {
		l.Msgf("broker died (%s); restarting it", describe(how))
	} else {
		l.Msgf("broker died before it was ready (%s); restarting it with the keeper's own program", describe(how))
	}
	k.again()
	return 0, false
}

// again starts a broker after a delay, which grows each time.
func (k *keeper) again() {
	k.restart = time.After(k.delays.Last)
	k.delays.Next()
}
