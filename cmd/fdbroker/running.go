//go:build linux

package main

import (
	"context"
	"errors"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/internal/activation"
	"github.com/fdbroker/fdbroker/internal/logging"
	"github.com/fdbroker/fdbroker/internal/notify"
	"github.com/fdbroker/fdbroker/scmrights"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

var longAgo = time.Unix(1, 0)

// running is a broker that runs.
type running struct {
	options
	inputs
	log       zerolog.Logger
	passed    passed
	listeners []socket.Spec
	wrong     error // with the configuration; what is stored is served all the same

	manager *manager
	store   string
	took    bool // over from another broker
	broker  *server.Server
	// next goes on in this process with another program, once everything has been
	// closed that is not for it; nil: the process ends.
	next func() error
}

// run binds everything and answers until ctx is done, or another program is to take over.
func (b *running) run(ctx context.Context) (err error) {
	p := b.passed
	b.store = chosenStore(b.options.store, os.Getenv)
	if b.manager, err = newManager(b.log, p.link); err != nil {
		p.close()
		return err
	}
	r := &reloader{config: b.config, manager: b.manager, log: b.log}
	if b.config != "" {
		r.binds = b.binds
	}
	b.binds = nil
	u := newUpgrader(b)
	b.server.Logger, b.server.Reload, b.server.Counted, b.server.Upgrade = b.log, r.reload, b.manager.counted, u.upgrade
	b.useStore()
	s, err := server.New(b.server)
	if err != nil {
		p.close()
		return err
	}
	r.server, b.broker = s, s
	keepAll := false // for the next program
	defer func() {
		if !keepAll {
			err = errors.Join(err, s.Close())
		}
	}()
	// First, so that a second broker is told so rather than that its addresses are
	// in use. Whoever connects now is answered when all is bound.
	took := s.Restore(p.stored)
	b.control.Restored = took.Control
	control, err := server.ListenControl(b.control)
	if err != nil {
		closePassed(p.sockets)
		return err
	}
	defer func() {
		if keepAll || b.server.Outlived {
			control.Release()
		} else {
			err = errors.Join(err, control.Close())
		}
	}()
	if why := control.Exposed(); why != "" {
		b.log.Warn().Str("socket", control.Path()).Str("why", why).Msg("the control socket can be replaced by others")
	}
	if err := s.KeepControl(control); err != nil {
		closePassed(p.sockets)
		return err
	}
	if took.Restarted {
		b.log.Warn().Str("why", took.Why).Int("listeners", took.Listeners).Int("grants", took.Grants).Msg("took over from the broker before")
	}
	if err := b.configure(took); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { b.manager.tell(notify.Stopping) })()
	cause := b.serve(ctx, r, u, control)
	if handsOver(cause) && ctx.Err() != nil {
		cause = server.ErrClosed // told to stop meanwhile
	}
	switch {
	case errors.Is(cause, server.ErrUpgrading):
		keepAll = true
		b.next = func() error { return b.goOn(b.self.path, p.link) }
	case errors.Is(cause, server.ErrKeeperLost):
		keepAll = true
		b.next = func() error { return b.goOn(ownProgram, nil) }
	case !errors.Is(cause, server.ErrClosed):
		return cause
	default:
		b.log.Info().Msg("stopped")
	}
	return nil
}

// useStore says where what is to outlive the broker goes.
func (b *running) useStore() {
	switch {
	case b.passed.link != nil:
		b.store = storeKeeper
		b.server.Store = store{b.manager.Manager}
	case b.store == storeSystemd:
		b.server.Store, b.server.Outlived = store{b.manager.Manager}, true
		if most, err := strconv.Atoi(os.Getenv("FDSTORE")); err == nil && most < len(b.listeners)+2 {
			b.log.Warn().Int("needed", len(b.listeners)+2).Int("most", most).Msg("FileDescriptorStoreMax= is too small: some listeners will not outlive the broker")
		}
	}
}

// configure binds what the configuration says. Where that cannot be, a broker that has
// taken over goes on with what it has.
func (b *running) configure(took server.Takeover) error {
	err := b.wrong
	if err == nil {
		err = b.broker.Configure(b.listeners, b.passed.sockets)
	} else {
		closePassed(b.passed.sockets)
	}
	if err == nil && b.passed.link != nil {
		b.disown()
	}
	b.listeners, b.took = nil, took.Listeners > 0
	if err != nil && b.took {
		b.log.Error().Err(err).Msg("configuration not loaded: what was bound before goes on")
		b.manager.tell(notify.Status(b.manager.serving() + "; configuration not loaded: " + err.Error()))
		return nil
	}
	return err
}

// disown makes the keeper forget what a service manager has passed to it: the broker has
// stored what it has made of that, and nothing else is to hold it open.
func (b *running) disown() {
	for _, p := range b.passed.sockets {
		if err := b.server.Store.Forget(p.Name); err != nil {
			b.log.Warn().Err(err).Str("name", p.Name).Msg("the keeper goes on holding a socket that it was passed: it is not closed by unbind")
		}
	}
}

// serve answers until ctx is done, another program is to take over, or something that
// has to be given back at the start is not, and says which.
func (b *running) serve(ctx context.Context, r *reloader, u *upgrader, control *server.Control) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	u.begin(cancel)
	var helpers sync.WaitGroup
	helpers.Go(func() { r.onSignals(ctx, b.hangups) })
	helpers.Go(func() { u.onSignals(ctx, b.upgrades) })
	helpers.Go(func() { b.manager.feedWatchdog(ctx, control.Path()) })
	helpers.Go(func() {
		b.passed.link.await(ctx, func() {
			b.log.Error().Msg("the keeper has ended: this process becomes the keeper")
			cancel(server.ErrKeeperLost)
		})
	})
	var missing error
	helpers.Go(func() {
		if missing = b.settle(ctx, control); missing != nil {
			cancel(nil)
		}
	})
	err := b.broker.Serve(ctx, control.Listener)
	cancel(nil)
	helpers.Wait()
	switch cause := context.Cause(ctx); {
	case missing != nil:
		return missing
	case errors.Is(err, server.ErrClosed) && handsOver(cause):
		return cause
	}
	return err
}

// settle waits until all is bound, and tells of it.
func (b *running) settle(ctx context.Context, control *server.Control) error {
	err := b.broker.Settle(ctx)
	switch {
	case err != nil && !b.took:
		return err
	case err != nil:
		b.log.Error().Err(err).Msg("what was bound before goes on without the rest")
	case ctx.Err() != nil:
		return nil
	}
	b.broker.Ready()
	b.log.Info().Str("socket", control.Path()).Msg("ready")
	b.manager.tell(notify.Ready)
	return nil
}

// handsOver reports whether another program goes on in this process.
func handsOver(cause error) bool {
	return errors.Is(cause, server.ErrUpgrading) || errors.Is(cause, server.ErrKeeperLost)
}

// goOn replaces this process by a program that goes on with everything. Where that cannot
// be executed, this one goes on, from the beginning.
func (b *running) goOn(program string, l *link) error {
	passed, env, err := l.passed(b.broker.Descriptors())
	if err == nil {
		err = b.self.become(program, passed, env...)
	}
	if program != ownProgram {
		// Not the log, which is closed by now.
		log := logging.Plain(os.Stderr, b.level, b.format)
		log.Error().Err(err).Msg("the new program cannot be executed: the old one goes on")
		b.broker.NotUpgraded()
		return b.goOn(ownProgram, l)
	}
	return err
}

// storeEnvOf returns the variable by which a broker knows that what it is passed, of which
// fd is at i, is for it.
func storeEnvOf(i int, fd *scmrights.FD) string {
	var st unix.Stat_t
	_ = fd.Control(func(n uintptr) { _ = unix.Fstat(int(n), &st) })
	return activation.StoreEnv + "=" + activation.Store(i, st.Ino)
}
