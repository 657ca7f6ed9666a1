package server

import (
	"errors"
	"os"
	"time"

	"github.com/fdbroker/fdbroker/broker/server/control"
	"github.com/fdbroker/fdbroker/broker/server/journal"
	"github.com/fdbroker/fdbroker/protocol"
)

// Causes with which the context of [Server.Serve] may end: the next broker says so.
var (
	ErrUpgrading  = errors.New("server: another program takes over")
	ErrKeeperLost = errors.New("server: the keeper has ended")
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

// Takeover is what a Restore has found.
type Takeover struct {
	// Restarted says that this is not the first broker, and Why what became of the one before.
	Restarted bool
	Why       string
	// Control is for [ControlConfig]; nil if there is none.
	Control *control.Restored
	// Listeners and Grants are how many there are again.
	Listeners, Grants int
}

// Restore takes what the store of an earlier broker has kept; see [bind.Binder.Restore].
func (s *Server) Restore(stored []Passed) (Takeover, error) {
	was, err := s.Binder.Restore(stored)
	t := Takeover{Restarted: was.Restarted, Control: was.Control, Listeners: was.Listeners, Grants: was.Grants}
	if err != nil || !was.Restarted {
		return t, err
	}
	t.Why = whyEnded(was.Ending, was.Process)
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

// whyEnded is what a watcher is sent. The program of a broker that was upgraded runs in the same process; if
// this is another one, what was started there did not work.
func whyEnded(e journal.Ending, process int) string {
	switch e {
	case journal.Stopped:
		return protocol.WhyStopped
	case journal.Upgrading:
		if process != os.Getpid() {
			return protocol.WhyUpgradeFailed
		}
		return protocol.WhyUpgraded
	case journal.KeeperLost:
		return protocol.WhyKeeperLost
	}
	return protocol.WhyCrashed
}
