//go:build linux

package keeper

import (
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/rs/zerolog"
)

// Config says what a keeper keeps, and whom it starts.
type Config struct {
	// Program is the file to start, Args its words, the name first, and Env its environment.
	Program string
	Args    []string
	Env     []string
	// StoreEnv is the variable by which a broker knows that what it is passed is for it:
	// NUMBER:INODE of its end of the pair.
	StoreEnv string
	// Held is kept from the beginning. Run takes it.
	Held []Held
	// Running is a broker that was started already, by this process, and Pair our end of
	// the pair with it, which Run takes; 0: there is none.
	Running int
	Pair    *os.File
	// Signals are those that the keeper gets. All are passed on; SIGTERM and SIGINT end it.
	Signals <-chan os.Signal
	// Relay passes what a broker tells on to the service manager.
	Relay func(text string) error
	// Renewed is called when a broker is ready that has another program than this
	// process: it replaces this process by that program. It borrows all; that it returns
	// says that this could not be done.
	Renewed func(pid int, held []Held, pair *os.File) error
	// ReadyTime is how long a broker may take to be ready once another program goes on in
	// its place; 0: 30 seconds.
	ReadyTime time.Duration
	// Logger gets an event for each broker that has to be started again.
	Logger zerolog.Logger
}

const (
	delayMin  = 10 * time.Millisecond // before a broker is started again that did not live long
	delayMax  = 5 * time.Second
	readyTime = 30 * time.Second       // the default of Config.ReadyTime
	longLived = 200 * time.Millisecond // since it was ready: what ends later is started again at once
	drainTime = time.Second            // for what a broker has told before its end
)

// keeper is what Run works on.
type keeper struct {
	Config
	held     held
	child    *child // nil while none runs
	since    time.Time
	everMore bool // a broker has been ready once: from then on there is always one
	stopping bool
	delay    time.Duration // before the next start
	restart  <-chan time.Time
	overdue  <-chan time.Time // since the broker said that it begins again; nil: it has not, or is ready
	early    []syscall.Signal // for a broker that is not ready
}

// Run keeps, and keeps a broker running, until that ends by itself or by SIGTERM or
// SIGINT, or cannot be started the first time. It returns the exit status.
func Run(c Config) (status int) {
	k := &keeper{Config: c, held: c.Held}
	if k.ReadyTime == 0 {
		k.ReadyTime = readyTime
	}
	defer k.held.close()
	if c.Running != 0 {
		k.everMore = true
		var err error
		if k.child, err = watch(c.Running, c.Pair); err != nil {
			k.Logger.Error().Err(err).Msg("cannot listen to the broker")
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

// turn does what is next.
func (k *keeper) turn() (status int, done bool) {
	var told chan message
	var ended chan ending
	if k.child != nil {
		told, ended = k.child.told, k.child.ended
	}
	select {
	case s := <-k.Signals:
		return k.signal(s.(syscall.Signal))
	case m, ok := <-told:
		if ok {
			k.hear(m)
			k.child.next <- struct{}{}
		} else {
			k.child.told = nil // its end will be heard of
		}
	case e := <-ended:
		return k.ended(e)
	case <-k.overdue:
		k.late()
	case <-k.restart:
		if !k.start() {
			k.again()
		}
	}
	return 0, false
}

// late kills a broker that should have been ready by now, if another program than ours has
// taken over there: ours is started then. It may also be reading its configuration.
func (k *keeper) late() {
	k.overdue = nil
	if k.runsOther() {
		k.Logger.Error().Int64("timeout_ms", k.ReadyTime.Milliseconds()).Msg("the new program is killed: it is not ready in time")
		k.child.signal(syscall.SIGKILL)
	}
}

// runsOther reports whether the broker has another program than this process.
func (k *keeper) runsOther() bool {
	return k.child != nil && !same("/proc/self/exe", "/proc/"+strconv.Itoa(k.child.pid)+"/exe")
}

// signal passes a signal on.
func (k *keeper) signal(s syscall.Signal) (status int, done bool) {
	if s == syscall.SIGTERM || s == syscall.SIGINT {
		if k.child == nil {
			return 0, true
		}
		switch {
		case k.stopping: // a second one kills at once
			s = syscall.SIGKILL
		case k.child.begins && k.runsOther(): // it may not listen to signals yet, and has files to remove
			k.early = append(k.early, s)
			k.stopping = true
			return 0, false
		}
		k.stopping = true
	}
	if (s == syscall.SIGHUP || s == syscall.SIGUSR2) && (k.child == nil || !k.child.ready) {
		k.early = append(k.early, s) // it may not listen to signals yet, and one would end it
		return 0, false
	}
	k.child.signal(s)
	return 0, false
}

// hear does what the broker has told, or passes it on.
func (k *keeper) hear(m message) {
	if m.lost {
		k.Logger.Error().Msg("a descriptor could not be stored, and would not outlive the broker: raise the limit of open files (ulimit -n, LimitNOFILE=)")
		return
	}
	if k.held.keeps(m) {
		return
	}
	k.note(m)
	if m.says("READY=1") && !k.stopping && len(k.Signals) == 0 && k.runsOther() {
		if err := k.Renewed(k.child.pid, k.held, k.child.end); err != nil {
			k.Logger.Error().Err(err).Msg("the keeper goes on with the program that it was started with")
		}
	}
}

// note passes m on, and notes whether the broker is ready.
func (k *keeper) note(m message) {
	if m.says("RELOADING=1") {
		k.child.ready, k.child.begins = false, true
		k.overdue = time.After(k.ReadyTime)
	}
	if m.says("STOPPING=1") {
		k.child.begins = false
	}
	if m.says("READY=1") {
		k.child.ready, k.child.begins, k.everMore, k.since = true, false, true, time.Now()
		k.overdue = nil
		for _, s := range k.early {
			k.child.signal(s)
		}
		k.early = nil
	}
	if err := k.Relay(m.text); err != nil {
		k.Logger.Warn().Err(err).Msg("the service manager was not told")
	}
}

// same reports whether two names are one file, as far as can be seen.
func same(a, b string) bool {
	x, err := os.Stat(a)
	y, yerr := os.Stat(b)
	return err != nil || yerr != nil || os.SameFile(x, y)
}

// ended hears what the broker has told before its end, and decides what comes next.
func (k *keeper) ended(e ending) (status int, done bool) {
	limit := time.After(drainTime)
	for open := k.child.told != nil; open; {
		select {
		case m, ok := <-k.child.told:
			if open = ok; !ok {
				break
			}
			if !k.held.keeps(m) {
				k.note(m)
			}
			k.child.next <- struct{}{}
		case <-limit:
			open = false
		}
	}
	ready, begins := k.child.ready, k.child.begins
	k.child.close()
	k.child, k.overdue = nil, nil
	if k.stopping || !k.everMore || e.code() == 0 && !begins {
		return e.code(), true
	}
	if ready && time.Since(k.since) >= longLived {
		k.delay = 0
	}
	l := k.Logger.Error().Str("ended", e.String()).Int64("wait_ms", k.delay.Milliseconds())
	if ready {
		l.Msg("the broker has ended: it is started again")
	} else {
		l.Msg("the broker has ended before it was ready: it is started again, with the program of the keeper")
	}
	k.again()
	return 0, false
}

// again starts a broker after a delay, which grows.
func (k *keeper) again() {
	k.restart = time.After(k.delay)
	k.delay = min(max(2*k.delay, delayMin), delayMax)
}
