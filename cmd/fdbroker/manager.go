package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/internal/notify"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// manager tells the service manager, if there is one, how the broker is doing. If that
// fails, it logs that, and the broker goes on.
type manager struct {
	*notify.Manager
	log       zerolog.Logger
	listeners atomic.Int64
}

// newManager returns the manager that the environment names. With a keeper, the manager tells that, and the keeper
// passes it on. The manager takes keeper.
func newManager(log zerolog.Logger, keeper *os.File) *manager {
	m, err := notify.FromEnvironment()
	switch {
	case keeper != nil: // which has logged err
		m = notify.Over(keeper, m)
	case err != nil:
		log.Warn().Err(err).Msg("the service manager asks for something unsupported")
	}
	return &manager{Manager: m, log: log}
}

func (m *manager) tell(states ...string) {
	if err := m.Tell(states...); err != nil {
		m.log.Warn().Err(err).Msg("cannot notify the service manager")
	}
}

// counted tells how many listeners there are.
func (m *manager) counted(n int) {
	m.listeners.Store(int64(n))
	m.tell(notify.Status(m.serving()))
}

func (m *manager) serving() string {
	if n := m.listeners.Load(); n != 1 {
		return fmt.Sprintf("serving %d listeners", n)
	}
	return "serving 1 listener"
}

// feedWatchdog tells a watching manager that the broker lives, as long as the broker answers
// at its control socket, until ctx is done.
func (m *manager) feedWatchdog(ctx context.Context, path string) {
	interval := m.Watchdog()
	if interval == 0 {
		return
	}
	ticker := time.NewTicker(interval / 2)
	defer ticker.Stop()
	for {
		if err := alive(ctx, path, interval/4); err == nil {
			m.tell(notify.Alive)
		} else if ctx.Err() == nil {
			m.log.Error().Err(err).Msg("the broker cannot connect to its own control socket")
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// alive returns an error if no broker answers at path in time. A broker that has run out of
// descriptors, or refuses clients, lives: a restart would not help.
func alive(ctx context.Context, path string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c := broker.Client{Socket: path}
	defer c.Close()
	_, err := c.Info(ctx)
	for _, passes := range []error{broker.ErrLimitReached, unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM} {
		if errors.Is(err, passes) {
			return nil
		}
	}
	return err
}
