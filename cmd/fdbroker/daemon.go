package main

import (
	"context"
	"errors"
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"sync"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/internal/logging"
	"github.com/fdbroker/fdbroker/internal/notify"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// daemon is a running broker.
type daemon struct {
	options
	inputs
	configuration
	log       zerolog.Logger
	passed    passed
	configErr error // with the configuration; a broker that takes over goes on without it

	manager   *manager
	reloader  *reloader
	upgrading sync.Mutex              // one check of a new program at a time
	end       context.CancelCauseFunc // ends the broker in favour of another program
	took      bool                    // over from another broker
	broker    *server.Server
	// next executes the next program in this process, once everything has been closed that is not for it; nil: the
	// process ends.
	next func() error
}

// run binds everything and answers until ctx is done, or another program is to take over.
func (d *daemon) run(ctx context.Context) (err error) {
	if err := d.newServer(); err != nil {
		d.passed.close()
		return err
	}
	d.reportKernel()
	keepAll := false // for the next program
	defer func() {
		closePassed(d.passed.sockets) // if it did not come to configure
		if !keepAll {
			err = errors.Join(err, d.broker.Close())
		}
	}()
	if err := d.restore(); err != nil {
		return err
	}
	// Before anything is bound, so that a second broker fails here, and not because its addresses are in use. A client
	// that connects now is answered when all is bound.
	control, err := server.ListenControl(d.control)
	if err != nil {
		return err
	}
	defer func() {
		if keepAll || d.server.Outlived {
			control.Release()
		} else {
			err = errors.Join(err, control.Close())
		}
	}()
	if err := d.keepControl(control); err != nil {
		return err
	}
	if err := d.configure(); err != nil {
		return err
	}
	cause := d.serve(ctx, control)
	switch handsOver := isHandover(cause); {
	case handsOver && ctx.Err() == nil:
		keepAll = true
		d.next = func() error { return d.goOn(cause) }
	case handsOver, errors.Is(cause, server.ErrClosed):
		d.log.Info().Msg("stopped")
	default:
		return cause
	}
	return nil
}

// newServer makes the server and those that it calls.
func (d *daemon) newServer() (err error) {
	d.manager = newManager(d.log, d.passed.keeper)
	d.reloader = &reloader{config: d.config, manager: d.manager, log: d.log, stopped: make(chan struct{})}
	if d.config != "" {
		d.reloader.binds = d.binds
	}
	d.server.Logger, d.server.Counted = d.log, d.manager.counted
	d.server.Reload, d.server.Upgrade = d.reloader.reload, d.upgrade
	d.useStore()
	d.broker, err = server.New(d.server)
	d.reloader.server = d.broker
	return err
}

// restore takes over from the broker before this one, if there was one.
func (d *daemon) restore() error {
	took, err := d.broker.Restore(d.passed.stored)
	d.took, d.control.Restored = took.WasReady || took.Listeners > 0, took.Control
	if err == nil && took.Restarted {
		l := d.log.Warn()
		if took.Why == protocol.WhyUpgraded || took.Why == protocol.WhyStopped {
			l = d.log.Info() // as somebody wanted
		}
		l.Str("why", took.Why).Int("listeners", took.Listeners).Int("grants", took.Grants).
			Msg("took over from the previous broker")
	}
	return err
}

// keepControl stores the control socket, and logs if others can replace it, or it shuts out users that listeners allow.
func (d *daemon) keepControl(control *server.Control) error {
	if what := shutOut(d.listeners, d.control); what != "" {
		d.log.Warn().Msg(what)
	}
	if why := control.Exposed(); why != "" {
		d.log.Warn().Str("socket", control.Path()).Str("why", why).Msg("the control socket can be replaced by others")
	}
	return d.broker.KeepControl(control)
}

// useStore gives the server its store.
func (d *daemon) useStore() {
	switch {
	case d.passed.keeper != nil:
		d.server.Store, d.server.StoreRoom = d.manager.Manager, keeperRoom
	case d.chosen == storeSystemd:
		d.server.Store, d.server.Outlived, d.server.StoreRoom = d.manager.Manager, true, d.systemdRoom()
	}
}

// systemdRoom returns what systemd has room for. Before version 254 it tells only whether there is any, if it is tried.
func (d *daemon) systemdRoom() func() server.StoreRoom {
	room := server.StoreRoom{Most: math.MaxInt, Advice: "raise FileDescriptorStoreMax="}
	most, err := strconv.Atoi(os.Getenv("FDSTORE"))
	switch {
	case err == nil:
		room.Most = most
	case d.store == storeSystemd && len(d.passed.stored) == 0 && !d.manager.Stores(storeTime): // auto has tried it
		room.Most = 0
	}
	return func() server.StoreRoom { return room }
}

// keeperRoom returns what the keeper, this process's parent, has room for: beside that it needs a few descriptors.
func keeperRoom() server.StoreRoom {
	const needs = 32
	var limit unix.Rlimit
	if unix.Prlimit(os.Getppid(), unix.RLIMIT_NOFILE, nil, &limit) != nil {
		return server.StoreRoom{Most: math.MaxInt}
	}
	most := int(min(limit.Cur, math.MaxInt32)) - needs
	return server.StoreRoom{Most: most, Advice: "raise the limit of open files, ulimit -n or LimitNOFILE="}
}

// configure binds the configured listeners. If that fails, a broker that has taken over goes on with its listeners, and
// with those of the configuration that can be bound.
func (d *daemon) configure() error {
	sockets, err := d.passed.sockets, d.configErr
	d.passed.sockets = nil
	if err == nil {
		err = d.broker.Configure(d.listeners, sockets, d.doubt)
	} else {
		closePassed(sockets)
	}
	if err == nil && d.passed.keeper != nil {
		d.disown(sockets)
	}
	listeners := d.listeners
	d.listeners = nil
	if err != nil && d.took {
		d.log.Error().Err(err).Msg("configuration not loaded; everything that was bound stays bound")
		if d.configErr == nil {
			d.broker.ConfigureEach(listeners)
		}
		d.manager.tell(notify.Status(d.manager.serving() + "; configuration not loaded: " + err.Error()))
		return nil
	}
	return err
}

// disown makes the keeper close the sockets that a service manager has passed to it. The broker has stored them under
// other names, and its unbind is to close them for good.
func (d *daemon) disown(sockets []server.Passed) {
	for _, p := range sockets {
		if err := d.server.Store.Forget(p.Name); err != nil {
			d.log.Warn().Err(err).Str("name", p.Name).Msg("the keeper holds a socket that was passed to it: unbind will not close it")
		}
	}
}

// serve answers until stop is done, another program is to take over, or a listener cannot be
// bound because a worker does not hand its socket back. The error says which.
func (d *daemon) serve(stop context.Context, control *server.Control) error {
	ctx, cancel := context.WithCancelCause(stop)
	defer cancel(nil)
	d.end = cancel
	var helpers sync.WaitGroup
	helpers.Go(func() {
		<-ctx.Done()
		if stop.Err() != nil {
			d.manager.tell(notify.Stopping)
		}
	})
	helpers.Go(func() { d.reloader.onSignals(ctx, d.hangups) })
	helpers.Go(func() { d.onUpgradeSignals(ctx) })
	helpers.Go(func() { d.broker.GuardControl(ctx, control) })
	helpers.Go(func() { d.manager.feedWatchdog(ctx, control.Path()) })
	helpers.Go(func() {
		if lost := awaitKeeper(ctx, d.passed.keeper); lost {
			d.log.Error().Msg("the keeper died; this process becomes the keeper")
			cancel(server.ErrKeeperLost)
		}
	})
	var missing error
	helpers.Go(func() {
		if missing = d.awaitReady(ctx, control); missing != nil {
			cancel(nil)
		}
	})
	err := d.broker.Serve(ctx, control.Listener)
	cancel(nil)
	helpers.Wait()
	cause := context.Cause(ctx)
	switch {
	case missing != nil:
		return missing
	case errors.Is(err, server.ErrClosed) && isHandover(cause):
		return cause
	}
	return err
}

// isHandover reports whether another program goes on in this process.
func isHandover(cause error) bool {
	return errors.Is(cause, server.ErrUpgrading) || errors.Is(cause, server.ErrKeeperLost)
}

// awaitReady waits until all is bound, and says that the broker is ready.
func (d *daemon) awaitReady(ctx context.Context, control *server.Control) error {
	err := d.broker.WaitPending(ctx)
	switch {
	case err != nil && !d.took:
		return err
	case err != nil:
		d.log.Error().Err(err).Msg("everything that was bound stays bound; the rest could not be bound")
	case ctx.Err() != nil:
		return nil
	}
	d.broker.Ready()
	d.log.Info().Str("socket", control.Path()).Msg("ready")
	d.manager.tell(notify.Ready)
	debug.FreeOSMemory() // which binding all took, and which a broker may never need again
	return nil
}

// goOn executes the next program, which goes on with everything: the one to upgrade to or,
// if the keeper has ended or that program cannot be executed, this one.
func (d *daemon) goOn(cause error) error {
	if errors.Is(cause, server.ErrKeeperLost) {
		return d.execute(ownProgram, nil)
	}
	err := d.execute(d.self.path, d.passed.keeper)
	log := logging.Plain(os.Stderr, d.logFlags.Level, d.logFlags.Format) // d.log is closed
	log.Error().Err(err).Msg("cannot execute the new program; the old one continues")
	d.broker.NotUpgraded()
	return d.execute(ownProgram, d.passed.keeper)
}
