//go:build linux

package main

import (
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/fdbroker/fdbroker/broker/keeper"
	"github.com/fdbroker/fdbroker/internal/activation"
	"github.com/fdbroker/fdbroker/internal/complete"
	"github.com/fdbroker/fdbroker/internal/launch"
	"github.com/fdbroker/fdbroker/internal/logging"
	"github.com/fdbroker/fdbroker/internal/notify"
	"github.com/rs/zerolog"
)

// pairName is the name of the keeper's end of the pair while it replaces itself.
const pairName = "@keeper"

// wantsKeeper reports whether a process with these arguments is to be a keeper. It only
// looks for the flags that say so: to understand the rest is the broker's business.
func wantsKeeper(args []string, getenv func(string) string) bool {
	if activation.ByStore(getenv(activation.StoreEnv)) || len(args) > 0 && args[0] == complete.Verb {
		return false
	}
	for _, flag := range []string{"help", "version", "check"} {
		if _, given := flagValue(args, flag); given {
			return false
		}
	}
	store, given := flagValue(args, "store")
	return (!given || store == storeAuto || store == storeKeeper) && chosenStore(store, getenv) == storeKeeper
}

// flagValue returns the value of a flag, the last one where there are several.
func flagValue(args []string, flag string) (value string, given bool) {
	for i := 0; i < len(args) && args[i] != "--"; i++ {
		word, dashed := strings.CutPrefix(args[i], "--")
		if args[i] == "-h" {
			word, dashed = "help", true
		}
		if !dashed {
			continue
		}
		name, text, inWord := strings.Cut(word, "=")
		if !inWord && !slices.Contains([]string{"help", "version", "check", "no-recover"}, name) && i+1 < len(args) {
			i++
			text = args[i]
		}
		if name == flag {
			value, given = text, true
		}
	}
	return value, given
}

// keep is the keeper. It returns the exit status.
func keep(s self) int {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR2)
	log, lines := keeperLog(os.Args[1:])
	defer lines.Close()
	running, _ := strconv.Atoi(os.Getenv(childEnv))
	_ = os.Unsetenv(childEnv)
	tellStrays(log, activation.FindStrays()) // the broker will find none
	passed, err := activation.Take()
	if err != nil {
		complain(os.Stderr, err)
		return exitFailed
	}
	manager, err := notify.FromEnvironment()
	if err != nil {
		log.Warn().Err(err).Msg("the service manager asks for what is not supported")
	}
	c := keeper.Config{
		Program: ownProgram, Args: os.Args, Env: s.env, StoreEnv: activation.StoreEnv,
		Signals: signals, Logger: log, Renewed: s.renew,
		Relay: func(text string) error { return manager.Tell(text) },
	}
	if manager.Watchdog() == 0 {
		c.Env = slices.DeleteFunc(slices.Clone(c.Env), func(kv string) bool { return strings.HasPrefix(kv, "WATCHDOG_USEC=") })
	}
	for _, p := range passed { // two of one name are passed on, for the broker to complain
		switch {
		case p.Name == pairName && running != 0:
			if c.Pair, err = p.FD.File("broker"); err != nil {
				complain(os.Stderr, err)
				return exitFailed
			}
			c.Running = running
		default:
			c.Held = append(c.Held, keeper.Held{Name: p.Name, FD: p.FD})
		}
	}
	return keeper.Run(c)
}

// renew replaces the keeper by the program of the broker that it has started.
func (s self) renew(pid int, held []keeper.Held, pair *os.File) error {
	end, err := dupOf(pair)
	if err != nil {
		return err
	}
	defer end.Close()
	passed := []launch.Passed{{Name: pairName, FD: end}}
	for _, h := range held {
		passed = append(passed, launch.Passed{Name: h.Name, FD: h.FD})
	}
	child := strconv.Itoa(pid)
	return s.become("/proc/"+child+"/exe", passed, childEnv+"="+child)
}

// keeperLog returns the keeper's log, which is like the broker's.
func keeperLog(args []string) (zerolog.Logger, *logging.Lines) {
	text, _ := flagValue(args, "log-level")
	level, err := zerolog.ParseLevel(text)
	if err != nil || text == "" {
		level = zerolog.InfoLevel
	}
	format, _ := flagValue(args, "log-format")
	if format != "console" && format != "json" {
		format = "auto"
	}
	return logging.New(os.Stderr, level, format)
}
