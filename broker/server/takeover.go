package server

import (
	"errors"
	"time"

	"github.com/fdbroker/fdbroker/broker/server/journal"
)

// Causes with which the context of [Server.Serve] may end: the next broker says so.
var (
	ErrUpgrading  = errors.New("server: another program is taking over")
	ErrKeeperLost = errors.New("server: the keeper has exited")
)

const (
	// reservedTime is how long the grant of a connection is reserved for its client after a restart.
	reservedTime = 10 * time.Second
	// restartedTime is how long a broker that took over says so to clients that begin to watch: those that
	// watched the one before come again within that time.
	restartedTime = 10 * time.Second
)

// StateLayout names the layout of the journal that this version writes.
func StateLayout() string { return journal.Layout }

// ReadsLayout reports whether this version can go on with a journal of that layout.
func ReadsLayout(layout string) bool { return journal.Reads(layout) }

// Restore takes what the store of an earlier broker has kept; see [bind.Binder.Restore].
func (s *Server) Restore(stored []Passed) (Takeover, error) {
	t, err := s.Binder.Restore(stored)
	if err != nil || !t.Restarted {
		return t, err
	}
	s.taken = takenOver{at: time.Now(), why: t.Why}
	if s.registry.Reserved() {
		s.watching.Go(s.endReserved)
	}
	return t, nil
}

// endReserved ends, after a while, the grants that no client has reclaimed.
func (s *Server) endReserved() {
	timer := time.NewTimer(reservedTime)
	defer timer.Stop()
	select {
	case <-timer.C:
		s.registry.EndReserved()
	case <-s.closing:
	}
}

func endingOf(cause error) journal.Ending {
	switch {
	case errors.Is(cause, ErrUpgrading):
		return journal.Upgrading
	case errors.Is(cause, ErrKeeperLost):
		return journal.KeeperLost
	}
	return journal.Stopped
}
