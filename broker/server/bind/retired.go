package bind

import (
	"fmt"
	"slices"
	"time"

	"github.com/fdbroker/fdbroker/broker/server/journal"
	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/internal/procfs"
	"github.com/fdbroker/fdbroker/scmrights"
)

// A name that has got a new socket has holders of the old one for a while. The old one is retired: it receives nothing
// new. What is in its queue is for its holders. Once that is empty they are asked to leave, and the broker's descriptor
// is closed when no process has the socket any more.

const (
	quietTime  = 50 * time.Millisecond // for which the queue must be empty: handshakes may be under way
	quietMost  = 5 * time.Second       // after which holders are asked in any case
	quietEvery = 10 * time.Millisecond
	followMost = 5 * time.Second // between two looks who has an old socket
)

// retire makes what opened replaces receive nothing new, commits opened, and makes the kernel forget that ports were
// shared meanwhile.
func (b *Binder) retire(renewed []string, opened []*socket.Socket) {
	retired := b.cfg.Registry.Stale()
	for _, l := range retired {
		if l.Socket.Retired() || !slices.Contains(renewed, l.Socket.Name()) {
			continue
		}
		by := opened[0]
		for _, sock := range opened {
			if sock.Name() == l.Socket.Name() {
				by = sock
			}
		}
		b.retireSocket(l.Socket, by)
	}
	for _, sock := range opened {
		sock.Commit()
	}
	if len(retired) == 0 {
		return
	}
	for _, sock := range opened {
		b.endSharing(sock, false)
	}
}

func (b *Binder) retireSocket(old, by *socket.Socket) {
	if err := old.Retire(by); err != nil {
		b.cfg.Log.Warn().Err(err).Str("name", old.Name()).Str("address", old.Address()).
			Msg("the old socket still gets a part of the clients until no process has it")
	}
}

// retireLate retires the old sockets that the broker before was killed before it could retire.
func (b *Binder) retireLate() {
	for _, l := range b.cfg.Registry.Stale() {
		if l.Socket.Retired() {
			continue
		}
		if by := b.successor(l.Socket); by != nil {
			b.retireSocket(l.Socket, by)
			b.endSharing(by, true)
		}
	}
}

// successor returns the socket that gets the clients of an old one, or nil.
func (b *Binder) successor(old *socket.Socket) *socket.Socket {
	if l, bound := b.cfg.Registry.Lookup(old.Name()); bound {
		return l.Socket
	}
	claim := old.Claim()
	for _, l := range b.cfg.Registry.Listeners() {
		if !l.Socket.Any() && l.Socket.Claim().Conflicts(claim) {
			return l.Socket
		}
	}
	return nil
}

func (b *Binder) endSharing(sock *socket.Socket, again bool) {
	if !sock.EndSharing(again) && !b.toldSharing {
		b.toldSharing = true
		b.cfg.Log.Warn().Str("name", sock.Name()).Str("address", sock.Address()).
			Msg("other processes of this user can join this port with SO_REUSEPORT until it is bound again: see docs/kernel.md")
	}
}

// isFollowed reports whether a goroutine follows an old socket.
func (b *Binder) isFollowed(sock *socket.Socket) bool {
	_, is := b.followed[sock]
	return is
}

// follow begins to follow an old socket. If ask is set, deploys are to replace their workers on it, and with others, other
// holders are to leave.
func (b *Binder) follow(l registry.Listener, ask, others bool) {
	if b.followed == nil {
		b.followed = make(map[*socket.Socket]struct{})
	}
	for sock := range b.followed {
		if !b.cfg.Registry.IsStale(sock) {
			delete(b.followed, sock)
		}
	}
	b.followed[l.Socket] = struct{}{}
	b.following.Go(func() {
		if ask && b.quiet(l.Socket) {
			deploys, asked := b.cfg.Registry.LeaveStale(l.Socket, others)
			if deploys+asked > 0 {
				b.cfg.Log.Info().Str("name", l.Socket.Name()).Str("address", l.Socket.Address()).Int("runs", deploys).Int("holders", asked).
					Msg("asked holders to leave the old socket, and 'fdclient run' to replace its workers there")
			}
		}
		for wait := quietEvery; b.sleep(wait); wait = min(2*wait, followMost) {
			if !b.cfg.Registry.IsStale(l.Socket) {
				return
			}
			if b.isLeft(l.Socket) {
				b.mu.Lock() // no change is under way that the kernel's memory of ports is for
				defer b.mu.Unlock()
				b.dropStale(l)
				return
			}
		}
	})
}

// quiet waits until an old socket has had nothing in its queue for a moment, or for long enough. It returns false if the
// binder stops meanwhile.
func (b *Binder) quiet(sock *socket.Socket) bool {
	begun, busy := time.Now(), time.Now()
	for time.Since(busy) < quietTime && time.Since(begun) < quietMost {
		if f, err := sock.Figures(); err == nil && f.Queue > 0 {
			busy = time.Now()
		}
		if !b.sleep(quietEvery) {
			return false
		}
	}
	return true
}

// sleep returns false if the binder stops meanwhile.
func (b *Binder) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-b.following.over:
		return false
	}
}

// isLeft reports whether no process has an old socket any more, as far as can be seen: those that have a grant are not
// looked for if they cannot be looked into.
func (b *Binder) isLeft(sock *socket.Socket) bool {
	if len(socket.Users([]*socket.Socket{sock}, usersTime)) > 0 {
		return false
	}
	return !slices.ContainsFunc(b.cfg.Registry.StaleHolders(sock), func(pid int) bool {
		return pid == 0 || procfs.HidesDescriptors(pid)
	})
}

// dropStale closes an old socket that no process has any more, unless the broker is stopping. The binder's lock is held.
func (b *Binder) dropStale(l registry.Listener) {
	f, _ := l.Socket.Figures()
	if !b.cfg.Registry.DropStale(l.Socket) {
		return
	}
	if text := queueText(l.Socket, f.Queue); text != "" {
		b.cfg.Log.Warn().Str("name", l.Socket.Name()).Str("address", l.Socket.Address()).Msg("the last process has left the old socket: " + text)
	}
	b.closeListeners([]registry.Listener{l}, true)
	for _, now := range b.cfg.Registry.Listeners() {
		if now.Socket.Beside(l.Socket) {
			b.endSharing(now.Socket, true)
		}
	}
	b.cfg.Log.Info().Str("name", l.Socket.Name()).Str("address", l.Socket.Address()).Msg("no process has the old socket any more")
}

// stopFollowing waits until no old socket is followed any more. The next broker goes on.
func (b *Binder) stopFollowing() {
	b.following.once.Do(func() { close(b.following.over) })
	b.following.Wait()
}

// restoreStale takes fd, the old socket of a name. Its holders were asked to leave.
func (b *Binder) restoreStale(v *journal.Listener, text string, fd *scmrights.FD) {
	drop := func(err error) {
		b.cfg.Log.Warn().Err(err).Str("spec", text).Msg("an old socket is no longer tracked")
		b.cfg.Registry.Journal(func(j *journal.Journal) { j.RemoveListener(v.Token) })
	}
	if fd == nil {
		drop(fmt.Errorf("it was not kept"))
		return
	}
	sock, err := socket.RestoreRetired(text, fd, socket.Saved{Cookie: v.Cookie})
	if err != nil {
		_ = fd.Close()
		b.unkeep(storedSocket(v.Token))
		drop(err)
		return
	}
	b.cfg.Registry.RestoreStale(v, sock)
	b.follow(registry.Listener{Socket: sock, Token: v.Token, Configured: v.Configured}, false, false)
}
