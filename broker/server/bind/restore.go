package bind

import (
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/fdbroker/fdbroker/broker/server/control"
	"github.com/fdbroker/fdbroker/broker/server/journal"
	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// Takeover is what a Restore has found.
type Takeover struct {
	// Restarted says that this is not the first broker, and Why what became of the one before.
	Restarted bool
	Why       string
	// Control is for [control.Config]; nil if there is none.
	Control *control.Restored
	// WasReady says that this broker or one before it has been ready: whatever cannot be restored or bound, clients
	// count on an answer.
	WasReady bool
	// Listeners and Grants are how many there are again.
	Listeners, Grants int
}

// Restore takes what the store of an earlier broker has kept, and makes of it what it was: listeners, and
// grants of the processes that still live. It is called once, before anything is bound, also if nothing was
// kept. What is of no use is taken out of the store.
func (b *Binder) Restore(stored []Passed) (t Takeover, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var controlFD *scmrights.FD
	sockets := make(map[uint32]*scmrights.FD)
	var journals []Passed
	for _, p := range stored {
		t.Restarted = true
		token, isSocket := tokenOf(p.Name)
		switch {
		case p.Name == storedControl && controlFD == nil:
			controlFD = p.FD
		case strings.HasPrefix(p.Name, storedJournal):
			journals = append(journals, p)
		case isSocket && sockets[token] == nil:
			sockets[token] = p.FD
		default:
			_ = p.FD.Close()
			b.unkeep(p.Name)
		}
	}
	was, store, err := b.openJournal(journals)
	if err != nil {
		return t, err
	}
	if !t.Restarted {
		b.cfg.Registry.Journal(func(j *journal.Journal) { j.SetEnding(journal.Starting, 0) })
	}
	t.Why, t.WasReady = whyEnded(was.Ending, was.Process), t.Restarted && was.Ending != journal.Starting
	b.wasReady.Store(t.WasReady)
	b.restore(&t, was, sockets)
	store()
	if t.Listeners > 0 {
		b.counted()
	}
	if controlFD != nil {
		t.Control = &control.Restored{FD: controlFD, File: was.Control.File, Path: was.Control.Path}
	}
	return t, nil
}

// openJournal goes on with the journal of the earlier broker, if one of stored is that, and otherwise begins
// a new one. Store puts that in the place of damaged ones in the store, and has to be called once it is
// complete: if this broker ends before that, the next one restores what this one has.
func (b *Binder) openJournal(stored []Passed) (was journal.Contents, store func(), err error) {
	var j *journal.Journal
	var damaged []string
	isNew := false
	for _, p := range stored {
		if j != nil {
			_ = p.FD.Close()
			b.expired = append(b.expired, p.Name)
			continue
		}
		next, contents, err := journal.Open(p.FD)
		if err != nil {
			b.cfg.Log.Error().Err(err).Str("stored", p.Name).Msg("the state of the previous broker is damaged")
		}
		switch j = next; {
		case j != nil:
			b.journal = p.Name
		case err == nil:
			b.expired = append(b.expired, p.Name) // the version that wrote it may have to go on with it
		default:
			damaged = append(damaged, p.Name)
		}
		if j != nil || len(was.Listeners) == 0 {
			was = contents
		}
	}
	if j == nil {
		if j, err = journal.New(); err != nil {
			return was, nil, err
		}
		j.SetEnding(was.Ending, was.Process)
		b.journal, isNew = storedJournal+"."+strconv.FormatUint(inodeOf(j.File()), 16), true
	}
	b.cfg.Registry.Continue(j, was)
	return was, func() {
		if isNew {
			_ = b.keep(b.journal, j.File())
		}
		for _, name := range damaged {
			b.unkeep(name)
		}
	}, nil
}

// restore makes of what the journal says what it was.
func (b *Binder) restore(t *Takeover, was journal.Contents, sockets map[uint32]*scmrights.FD) {
	for token := range sockets {
		b.cfg.Registry.SkipToken(token)
	}
	var staleOnes []func()
	for _, token := range slices.Sorted(maps.Keys(was.Listeners)) {
		v := was.Listeners[token]
		fd := sockets[token]
		delete(sockets, token)
		if text, stale := registry.StaleSpec(v.Spec); stale {
			staleOnes = append(staleOnes, func() { b.restoreStale(v, text, fd) })
			continue
		}
		if b.restoreListener(v, fd) {
			t.Listeners++
			continue
		}
		b.cfg.Registry.Journal(func(j *journal.Journal) { j.RemoveListener(token) })
	}
	for _, restore := range staleOnes { // whose names are there now
		restore()
	}
	b.retireLate()
	for token, fd := range sockets { // the journal says nothing about it: see adoptOrphan
		b.orphans = append(b.orphans, Passed{storedSocket(token), fd})
	}
	t.Grants = b.cfg.Registry.RestoreGrants(was.Grants)
}

// restoreListener makes fd, which it takes, the socket of the listener that it was. Fd is nil if the store
// has none. A socket that the journal cannot restore is left to the configuration.
func (b *Binder) restoreListener(v *journal.Listener, fd *scmrights.FD) bool {
	name, _, _ := strings.Cut(v.Spec, "=")
	returns := v.Configured || v.Adopted // by the configuration, or because it is passed again
	if fd == nil {
		if !returns {
			b.reopen(v.Spec)
		}
		return false
	}
	err := spec.CheckName(name)
	if err == nil {
		var sock *socket.Socket
		saved := socket.Saved{Cookie: v.Cookie, Adopted: v.Adopted, File: v.File}
		if sock, err = socket.Restore(v.Spec, fd, saved); err == nil {
			_ = sock.SetBlocking(v.Blocking) // systemd sets what it passes as NonBlocking= says
			b.cfg.Registry.RestoreListener(v, sock)
			if v.Unstored { // it comes from this process
				b.lacks(sock, "the store had no room for it")
			}
			return true
		}
	}
	b.cfg.Log.Error().Err(err).Str("name", name).Str("spec", v.Spec).Msg("cannot use the stored socket for this listener")
	if returns {
		b.orphans = append(b.orphans, Passed{storedSocket(v.Token), fd})
		return false
	}
	_ = fd.Close()
	b.unkeep(storedSocket(v.Token))
	b.reopen(v.Spec)
	return false
}

// reopen binds a listener again whose socket was not kept.
func (b *Binder) reopen(text string) {
	s, err := spec.Parse(text)
	var sock *socket.Socket
	if err == nil {
		sock, err = socket.Open(s, socket.OpenConfig{})
	}
	if err == nil {
		err = b.apply([]*socket.Socket{sock}, registry.Change{})
	}
	if err != nil {
		b.cfg.Log.Error().Err(err).Str("spec", text).Msg("a listener was lost, because its socket was not stored")
	}
}

// adoptOrphan returns a socket of an earlier broker that is bound to the address of s, and about which
// nothing else is known; nil if there is none.
func (b *Binder) adoptOrphan(s spec.Spec) *socket.Socket {
	for i, p := range b.orphans {
		if !socket.IsAt(s, p.FD) {
			continue
		}
		b.orphans = slices.Delete(b.orphans, i, i+1)
		b.unkeep(p.Name) // it will have another name there
		sock, err := socket.Adopt(s, p.FD, socket.Ours)
		if err != nil {
			b.cfg.Log.Warn().Err(err).Str("name", s.Name).Msg("cannot use a socket of the previous broker")
			return nil
		}
		b.cfg.Log.Warn().Str("name", s.Name).Str("address", sock.Address()).Msg("recognized by its address")
		return sock
	}
	return nil
}

// dropOrphans closes the sockets that the configuration does not name.
func (b *Binder) dropOrphans() {
	for _, p := range b.orphans {
		b.cfg.Log.Warn().Str("stored", p.Name).Msg("closed a socket of the previous broker that belongs to no listener")
		_ = p.FD.Close()
		b.unkeep(p.Name)
	}
	b.orphans = nil
}

// KeepControl adds the control socket to the store and the journal, in place of an earlier one. It must be called before
// the listener of c is served.
func (b *Binder) KeepControl(c *control.Control) error {
	fd, err := c.Listener.Dup()
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.control != nil {
		_ = b.control.Close()
		b.unkeep(storedControl)
	}
	b.control = fd
	_ = b.keep(storedControl, fd)
	b.cfg.Registry.Journal(func(j *journal.Journal) { j.PutControl(journal.Control{File: c.File(), Path: c.Path()}) })
	return nil
}

// Ready says that this broker has started: from now on the journal tells how it ends, and journals of earlier
// layouts, which an earlier version could have gone on with, are dropped.
func (b *Binder) Ready() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cfg.Registry.Phase() >= registry.Stopping {
		return
	}
	b.wasReady.Store(true)
	b.cfg.Registry.Journal(func(j *journal.Journal) { j.SetEnding(journal.Killed, 0) })
	b.fill()
	for _, name := range b.expired {
		b.unkeep(name)
	}
	b.expired = nil
}

// NotUpgraded makes the next broker say that the upgrade for which this one has ended has failed: this program goes on.
func (b *Binder) NotUpgraded() {
	b.cfg.Registry.Journal(func(j *journal.Journal) { j.SetEnding(journal.Upgrading, 0) })
}

// Stop makes the journal say why the broker ends: see [registry.Registry.Stop].
// The next broker after one that was never ready may refuse to start as well.
func (b *Binder) Stop(e journal.Ending, then func()) {
	if e == journal.Stopped && !b.wasReady.Load() {
		e = journal.Starting
	}
	b.cfg.Registry.Stop(e, os.Getpid(), then)
}

// Descriptors returns all that a broker which takes over in this process has to be passed: what Restore takes.
// Nothing may change any more. They are the binder's.
func (b *Binder) Descriptors() []Passed {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []Passed
	b.cfg.Registry.Journal(func(j *journal.Journal) {
		if b.journal != "" {
			all = append(all, Passed{b.journal, j.File()})
		}
	})
	if b.control != nil {
		all = append(all, Passed{storedControl, b.control})
	}
	for _, l := range append(b.cfg.Registry.Listeners(), b.cfg.Registry.Stale()...) {
		all = append(all, Passed{storedSocket(l.Token), l.Socket.FD()})
	}
	return all
}

// whyEnded is what a watcher is sent. The program of a broker that was upgraded runs in the same process; if
// this is another one, what was started there did not work.
func whyEnded(e journal.Ending, process int) string {
	switch e {
	case journal.Stopped:
		return protocol.WhyStopped
	case journal.Starting:
		if process != 0 { // else it did not get to say
			return protocol.WhyStopped
		}
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
