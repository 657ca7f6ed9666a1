package server

import (
	"context"
	"errors"
	"math"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server/bind"
	"github.com/fdbroker/fdbroker/broker/server/conn"
	"github.com/fdbroker/fdbroker/broker/server/control"
	"github.com/fdbroker/fdbroker/broker/server/health"
	"github.com/fdbroker/fdbroker/broker/server/peer"
	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/internal/closer"
	"github.com/fdbroker/fdbroker/scmrights"
)

// New returns a Server without listeners. The caller must close it.
func New(cfg Config) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{
		grants: grantLog{log: cfg.Logger},
		cfg:    cfg, uid: uint32(os.Geteuid()), log: cfg.Logger,
		sampled: cfg.Logger.Sample(&zerolog.BurstSampler{Burst: 100, Period: time.Second}),
		rarely:  cfg.Logger.Sample(&zerolog.BurstSampler{Burst: 1, Period: time.Minute}),
		closing: make(chan struct{}), stopping: make(chan struct{}), listing: make(chan struct{}, 1), seeking: make(chan struct{}, 1),
	}
	s.limitDescriptors()
	if s.exits, err = peer.NewExitWatcher(); err != nil {
		return nil, err
	}
	if s.monitor, err = health.Start(report{s}); err != nil {
		s.exits.Close()
		return nil, err
	}
	s.registry = registry.New(registry.Config{
		Exits: s.exits, Health: s.monitor, MaxGrantsPerUID: cfg.MaxGrantsPerUID, Descriptors: &s.descriptors,
		Report: s.report, GrantEvents: grantEvents(cfg.Logger),
	})
	s.Binder = bind.New(bind.Config{
		Registry: s.registry, Store: cfg.Store, StoreRoom: cfg.StoreRoom, MaxNames: cfg.MaxNames, NoRecover: cfg.NoRecover,
		HandBackTime: cfg.OfferTime, Counted: cfg.Counted, BeyondRepair: s.monitor.BeyondRepair, Log: cfg.Logger,
	})
	if s.loop, err = conn.New(conn.Config{
		MaxClients: cfg.MaxClients, MaxClientsPerUID: cfg.MaxClientsPerUID, MaxMessage: cfg.MaxMessage,
		CallTimeout: cfg.CallTimeout, Handler: handler{s}, Descriptors: &s.descriptors,
	}); err != nil {
		s.monitor.Close()
		s.exits.Close()
		return nil, err
	}
	s.watching.Go(func() { s.exits.Run(s.registry.Exited) })
	return s, nil
}

// limitDescriptors takes note of how many files this process may have open, and returns that.
func (s *Server) limitDescriptors() int {
	files := math.MaxInt32
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		files = int(min(limit.Cur, math.MaxInt32))
	}
	s.descriptors.SetLimit(files)
	return files
}

// Close closes the listeners, also those of a Bind that is under way, for which it waits. Their holders go on
// accepting. Serve must have returned. With [Config.Outlived] the files of Unix sockets stay.
func (s *Server) Close() error {
	s.monitor.Close() // first: it may be waiting for the registry's lock
	s.closed.Do(func() { close(s.closing) })
	sockets := s.Binder.Close()
	s.exits.Close()
	s.watching.Wait()
	s.loop.Close()
	s.grants.flush()
	var errs []error
	for _, sock := range sockets {
		errs = append(errs, s.closeSocket(sock))
	}
	return errors.Join(errs...)
}

// closeSocket closes a listener's socket at the end. The close of one that was put with any may block, so it
// is not waited for for long.
func (s *Server) closeSocket(sock *socket.Socket) error {
	end := sock.Close
	if s.cfg.Outlived {
		end = sock.Release
	}
	if !sock.Any() {
		return end()
	}
	var c closer.Closer
	c.Close(sock, func() { _ = end() })
	c.Wait(100 * time.Millisecond)
	return nil
}

// Serve takes ln and answers calls on it until ctx is done. Calls under way may finish within a second; when it
// returns, no goroutine of it is left except those that the kernel keeps from closing what clients have sent: they
// change nothing any more. The error is never nil; after a normal stop it is [ErrClosed]. It may be called once.
func (s *Server) Serve(ctx context.Context, ln *scmrights.FD) error {
	defer ln.Close()
	stop := sync.OnceFunc(func() {
		s.Stop(endingOf(context.Cause(ctx)), s.loop.Stop)
		close(s.stopping)
	})
	if !s.taken.at.IsZero() {
		s.taken.at = time.Now() // only now do clients come
	}
	defer context.AfterFunc(ctx, stop)()
	if files, room := s.limitDescriptors(), s.descriptors.Room(); room < s.cfg.MaxClients*3/4 {
		s.log.Warn().Int("open_files", files).Int("max_clients", max(room, 1)).
			Msg("the limit of open files allows fewer clients than --max-clients: raise it (ulimit -n, LimitNOFILE=)")
	}
	left, err := s.loop.Serve(ln)
	stop()
	s.Freeze()
	s.grants.flush()
	if left > 0 {
		s.log.Warn().Int("count", left).Msg("stopping without waiting for clients that keep their connections open")
	}
	if err != nil {
		return err
	}
	return ErrClosed
}

// GuardControl keeps the control socket at its path until ctx is done, while Serve serves it.
func (s *Server) GuardControl(ctx context.Context, c *Control) {
	if err := c.Guard(ctx, guarded{s}); err != nil {
		s.log.Warn().Err(err).Str("socket", c.Path()).Msg("the path of the control socket is not watched: if it is removed, SIGUSR2 brings it back")
	}
}

// ListenControl makes the control socket; see [control.Listen].
func ListenControl(c ControlConfig) (*Control, error) { return control.Listen(c) }
