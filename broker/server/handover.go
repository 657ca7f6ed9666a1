//go:build linux

package server

import (
	"errors"
	"os"
	"slices"
	"time"

	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// Causes with which the context of [Server.Serve] may end: the next broker says so.
var (
	ErrUpgrading  = errors.New("server: another program takes over")
	ErrKeeperLost = errors.New("server: the keeper has ended")
)

// What the state says of the end of a broker. The numbers stay as they are.
const (
	endedKilled uint64 = iota
	endedStopped
	endedUpgrading
	endedKeeperLost
)

func endingOf(cause error) uint64 {
	switch {
	case errors.Is(cause, ErrUpgrading):
		return endedUpgrading
	case errors.Is(cause, ErrKeeperLost):
		return endedKeeperLost
	}
	return endedStopped
}

// whyEnded is what a watcher is told. The program of a broker that was upgraded runs in
// the same process; in another one there is what was started since that did not work.
func whyEnded(ending, process uint64) string {
	switch ending {
	case endedStopped:
		return protocol.WhyStopped
	case endedUpgrading:
		if process != uint64(os.Getpid()) {
			return protocol.WhyUpgradeFailed
		}
		return protocol.WhyUpgraded
	case endedKeeperLost:
		return protocol.WhyKeeperLost
	}
	return protocol.WhyCrashed
}

// takenOver is when this broker took over from another one, and why.
type takenOver struct {
	at  time.Time
	why string
}

// restartedFor is how long a broker that took over says so to who begins to watch: those
// who watched the one before come again within that time.
const restartedFor = 10 * time.Second

// event returns what a watcher who comes now is told, if anything.
func (t takenOver) event() (e protocol.Event, told bool) {
	if t.at.IsZero() || time.Since(t.at) > restartedFor {
		return e, false
	}
	return protocol.Event{What: protocol.EventRestarted, Time: t.at.UnixMicro(), Why: t.why}, true
}

// freeze makes the grants in the state what the next broker is to find, whatever ends
// now. What calls that are under way make of the listeners is still written.
func (s *Server) freeze(cause error) {
	st := s.registry.state
	st.set(atEnding, endingOf(cause))
	st.set(atProcess, uint64(os.Getpid()))
	st.frozen = true
}

// Ready says that this broker has come as far as it must: from now on it is what counts
// how it ends, and no longer how the one before did.
func (s *Server) Ready() {
	r := s.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state.frozen {
		return // it has ended
	}
	r.state.set(atEnding, 0)
	if !s.taken.at.IsZero() {
		s.taken.at = time.Now()
	}
}

// NotUpgraded makes the next broker say that the upgrade for which this one has ended has
// failed: it is this program again that goes on.
func (s *Server) NotUpgraded() { s.registry.state.set(atProcess, 0) }

// KeepControl adds the control socket to the store and the state. It must be called
// before Serve, which takes the Listener of c.
func (s *Server) KeepControl(c *Control) error {
	fd, err := c.Listener.Dup()
	if err != nil {
		return err
	}
	s.control = fd
	s.keep(storedControl, fd)
	r := s.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.scratch = savedControl{c.id, c.path}.append(r.state.scratch[:0])
	s.controlRecord = r.state.replace(s.controlRecord, kindControl)
	return nil
}

// Descriptors returns all that a broker which takes over in this process has to be
// passed: what Restore takes. Serve must have returned. They are the server's.
func (s *Server) Descriptors() []Passed {
	r := s.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	all := []Passed{{s.stateName, r.state.file}}
	if s.control != nil {
		all = append(all, Passed{storedControl, s.control})
	}
	for _, l := range r.byName() {
		all = append(all, Passed{storedSocket(l.socket.Token), l.socket.FD()})
	}
	return slices.Clip(all)
}

// inodeOf returns the number of a descriptor's inode, or 0.
func inodeOf(fd *scmrights.FD) (ino uint64) {
	_ = fd.Control(func(n uintptr) {
		var st unix.Stat_t
		if unix.Fstat(int(n), &st) == nil {
			ino = st.Ino
		}
	})
	return ino
}

// upgrade answers Upgrade.
func (s *session) upgrade(c protocol.Call) error {
	takeOver, err := s.mayUpgrade()
	if err != nil {
		s.refuse(c.Method, err)
		return s.replyError(c, err)
	}
	takeOver()
	<-s.ctx.Done() // whoever connects once this is answered is served by the next broker
	if err := s.reply(c, nil, false); err != nil {
		return err
	}
	return errStopping
}

func (s *session) mayUpgrade() (takeOver func(), err error) {
	if !s.privileged() {
		return nil, &protocol.PermissionDeniedError{}
	}
	if s.server.cfg.Upgrade == nil {
		return nil, &protocol.UpgradeFailedError{Reasons: []string{"this broker cannot be upgraded"}}
	}
	return s.server.cfg.Upgrade()
}
