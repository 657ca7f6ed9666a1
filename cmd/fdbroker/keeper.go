package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/fdbroker/fdbroker/broker/keeper"
	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/activation"
	"github.com/fdbroker/fdbroker/internal/cli"
	"github.com/fdbroker/fdbroker/internal/launch"
	"github.com/fdbroker/fdbroker/internal/logging"
	"github.com/fdbroker/fdbroker/internal/notify"
	"github.com/fdbroker/fdbroker/scmrights"
	"github.com/rs/zerolog"
)

// pairName is the name under which a keeper that replaces itself passes its end of the socket pair with the broker.
const pairName = "@keeper"

// The values of --store.
const (
	storeAuto    = "auto"
	storeSystemd = "systemd"
	storeKeeper  = "keeper"
	storeNone    = "none"
)

// storeTime is how long systemd may take to show whether it keeps descriptors. When the machine boots, it has much to do.
const storeTime = 2 * time.Second

// chooseStore returns the store that auto means: systemd's if there is one, else a keeper. It is to be called before
// anything is taken out of the environment.
func (s self) chooseStore() string {
	address, most := os.Getenv("NOTIFY_SOCKET"), os.Getenv("FDSTORE")
	switch {
	case s.store != "":
		return s.store
	case address == "":
		return storeKeeper
	case most != "": // systemd 254 and later say how many
		if n, err := strconv.Atoi(most); err == nil && n > 0 {
			return storeSystemd
		}
	case os.Getenv("INVOCATION_ID") != "" && (activation.Has(server.IsStored) || notify.Stores(address, storeTime)): // systemd
		return storeSystemd
	}
	return storeKeeper
}

// wantsKeeper returns the parsed command line, with the store that it means, and whether this process is to be a keeper.
// It leaves complaints about the command line to the broker.
func (s self) wantsKeeper(args []string) (o options, wants bool) {
	if s.kept {
		return o, false
	}
	o, err := parse(args, io.Discard)
	if err != nil {
		o = options{logFlags: logging.Flags{Level: zerolog.InfoLevel, Format: "auto"}}
	}
	switch {
	case os.Getenv(childEnv) != "": // a keeper that has replaced its program
		return o, true
	case err != nil, o.check:
		return o, false
	case o.store == storeAuto:
		o.store = s.chooseStore()
	}
	return o, o.store == storeKeeper
}

// keep is the keeper. It returns the exit status.
func keep(s self, o options) int {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR2)
	log, lines := logging.New(os.Stderr, o.logFlags.Level, o.logFlags.Format)
	defer lines.Close()
	if _, err := os.Stat(ownProgram); err != nil {
		cli.Complain(os.Stderr, "fdbroker", fmt.Errorf("the keeper needs /proc to start the broker (--store=none needs no keeper): %w", err))
		return cli.Failed
	}
	running, _ := strconv.Atoi(os.Getenv(childEnv))
	_ = os.Unsetenv(childEnv)
	foreign, owner := activation.Foreign()
	warnForeign(log, foreign, owner) // the broker will find none
	passed, err := activation.Take()
	if err != nil {
		cli.Complain(os.Stderr, "fdbroker", err)
		return cli.Failed
	}
	manager, err := notify.FromEnvironment()
	if err != nil {
		log.Warn().Err(err).Msg("the service manager asks for something unsupported")
	}
	c := keeper.Config{
		Program: ownProgram, Args: os.Args, Env: s.env, StoreEnv: activation.StoreEnv,
		Signals: signals, Logger: log, Renewed: s.renew,
		Relay: func(text string) error {
			if strings.Contains(text, notify.Ready) {
				debug.FreeOSMemory() // as the broker does now
			}
			return manager.Tell(text)
		},
	}
	if manager.Watchdog() == 0 {
		c.Env = slices.DeleteFunc(slices.Clone(c.Env), func(kv string) bool { return strings.HasPrefix(kv, "WATCHDOG_USEC=") })
	}
	for _, p := range passed { // of one name, too: the broker complains about that
		if p.Name != pairName || running == 0 {
			c.Held = append(c.Held, keeper.Held{Name: p.Name, FD: p.FD})
			continue
		}
		c.Running = running
		if c.Pair, err = p.FD.File("broker"); err != nil {
			cli.Complain(os.Stderr, "fdbroker", err)
			return cli.Failed
		}
	}
	return keeper.Run(c)
}

// renew replaces the keeper by the program of the broker that it has started, so that both
// run the same one after an upgrade.
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
	return s.reexec("/proc/"+child+"/exe", passed, childEnv+"="+child)
}

// dupOf returns a duplicate of f's descriptor; the caller must close it.
func dupOf(f *os.File) (fd *scmrights.FD, err error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	cerr := rc.Control(func(n uintptr) { fd, err = scmrights.NewFD(int(n)).Dup() })
	return fd, errors.Join(cerr, err)
}

// awaitKeeper reports whether the keeper at the other end of the socket pair ends before ctx; nil: there is none.
func awaitKeeper(ctx context.Context, end *os.File) (lost bool) {
	if end == nil {
		return false
	}
	defer context.AfterFunc(ctx, func() { _ = end.SetReadDeadline(time.Unix(1, 0)) })()
	_, err := end.Read(make([]byte, 1))
	return err != nil && ctx.Err() == nil
}
