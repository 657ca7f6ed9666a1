package bind

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fdbroker/fdbroker/broker/server/journal"
	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/procfs"
	"github.com/fdbroker/fdbroker/protocol"
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

// inTheWay returns the sockets beside which new ones are bound.
func (p *plan) inTheWay() []*socket.Socket {
	all := slices.Clone(p.old)
	for _, a := range p.toAlter {
		all = append(all, a.socket)
	}
	for _, l := range p.binder.cfg.Registry.Stale() {
		all = append(all, l.Socket)
	}
	return all
}

// lastReplaced makes the sockets that are bound beside old ones the last to be opened: if another one cannot be opened,
// no client has got to them.
func (p *plan) lastReplaced() {
	slices.SortStableFunc(p.toOpen, func(a, b spec.Spec) int {
		return strings.Compare(fmt.Sprint(slices.Contains(p.replaced, a.Name)), fmt.Sprint(slices.Contains(p.replaced, b.Name)))
	})
}

// beyondRepair reports whether only another socket helps.
func (b *Binder) beyondRepair(sock *socket.Socket) bool {
	return b.cfg.BeyondRepair != nil && b.cfg.BeyondRepair(sock)
}

// renewed returns the names whose holders may be left on an old socket: those that get a new one, and those that are
// unbound while another name gets their address.
func (p *plan) renewed() []string {
	names := slices.Clone(p.replaced)
	for _, name := range p.toClose {
		if p.isTaken(name) {
			names = append(names, name)
		}
	}
	return names
}

// isTaken reports whether a spec of toOpen has the address of the listener of that name.
func (p *plan) isTaken(name string) bool {
	l, bound := p.binder.cfg.Registry.Lookup(name)
	if !bound || l.Socket.Any() {
		return false
	}
	claim := l.Socket.Claim()
	return slices.ContainsFunc(p.toOpen, func(s spec.Spec) bool {
		claims, _ := s.Claims()
		return slices.ContainsFunc(claims, claim.Conflicts)
	})
}

// checkLeft finds out who has the sockets that the plan replaces. Without rebind, it is a [*protocol.ReloadFailedError]
// if processes would be left there which do not follow by themselves, or connections which nobody would accept.
func (p *plan) checkLeft(rebind bool) error {
	names := p.renewed()
	if len(names) == 0 {
		return nil
	}
	p.left = make(map[string]registry.Left)
	sockets := make([]*socket.Socket, len(names))
	for i, name := range names {
		l, _ := p.binder.cfg.Registry.Lookup(name)
		sockets[i], p.left[name] = l.Socket, p.binder.cfg.Registry.WouldLeave(name)
	}
	users := socket.Users(sockets, usersTime)
	figures, _ := socket.FiguresOf(sockets)
	var reasons []string
	for i, name := range names {
		left := p.left[name]
		for _, u := range users[sockets[i]] {
			if !left.Knows(u.PID) {
				left.Strays = append(left.Strays, u.PID)
			}
		}
		p.left[name] = left
		if text := stuckText(left); text != "" {
			reasons = append(reasons, fmt.Sprintf("%s, and would leave behind %s", p.renewalText(name), text))
		} else if queue := queueText(sockets[i], figures[i].Queue); queue != "" && left.Nobody() {
			reasons = append(reasons, fmt.Sprintf("%s, and nobody would serve what waits at the old one: %s", p.renewalText(name), queue))
		}
	}
	if rebind || len(reasons) == 0 {
		return nil
	}
	const advice = "nothing changed; fdclient reload --rebind asks these processes to leave, and names those that stay"
	return &protocol.ReloadFailedError{Reasons: append(reasons, advice)}
}

func (p *plan) renewalText(name string) string {
	if slices.Contains(p.toClose, name) {
		return fmt.Sprintf("%q would lose its address to another listener", name)
	}
	return fmt.Sprintf("%q needs a new socket", name)
}

// stuckText names the processes that do not follow by themselves, or is empty.
func stuckText(left registry.Left) string {
	var texts []string
	for _, h := range slices.Concat(left.Asked, left.Stuck) {
		texts = append(texts, processText(h.PID, procfs.Name(h.PID)))
	}
	for _, pid := range left.Strays {
		texts = append(texts, processText(pid, procfs.Name(pid)))
	}
	if left.Unseen > 0 {
		texts = append(texts, fmt.Sprintf("%d processes in another pid namespace", left.Unseen))
	}
	return someOf(texts)
}

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
		if err := l.Socket.Retire(by); err != nil {
			b.cfg.Log.Warn().Err(err).Str("name", l.Socket.Name()).Str("address", l.Socket.Address()).
				Msg("the old socket goes on to get a part of the clients, as long as a process has it")
		}
	}
	for _, sock := range opened {
		sock.Commit()
	}
	if len(retired) == 0 {
		return
	}
	for _, sock := range opened {
		b.endSharing(sock)
	}
}

func (b *Binder) endSharing(sock *socket.Socket) {
	if !sock.EndSharing() {
		b.cfg.Log.Warn().Str("name", sock.Name()).Str("address", sock.Address()).
			Msg("other processes of this user can join this port with SO_REUSEPORT until it is bound anew: see docs/kernel.md")
	}
}

// followRenewed follows the old sockets of these names.
func (p *plan) followRenewed(names []string) {
	b := p.binder
	for _, l := range b.cfg.Registry.Stale() {
		name := l.Socket.Name()
		if !slices.Contains(names, name) || b.isFollowed(l.Socket) {
			continue
		}
		left := p.left[name]
		for _, pid := range left.Strays {
			b.cfg.Registry.DiscoverStale(pid, l.Socket)
		}
		b.cfg.Registry.NoteRenewed(l.Socket, LeftText(left, p.rebind))
		if left.Nobody() && len(b.cfg.Registry.StaleHolders(l.Socket)) == 0 {
			b.dropStale(l)
			continue
		}
		b.follow(l, true, p.rebind)
	}
}

// LeftText says who has the old socket of a listener, and what they do.
func LeftText(left registry.Left, rebind bool) string {
	var texts []string
	if n := len(left.Rolling); n > 0 {
		texts = append(texts, fmt.Sprintf("%s of fdclient run %s being replaced", count(n, "worker"), be(n)))
	}
	if left.Moving > 0 {
		texts = append(texts, fmt.Sprintf("%s told to get the new socket", count(left.Moving, "client")))
	}
	if rebind && len(left.Asked) > 0 {
		texts = append(texts, "asked to leave: "+stuckText(registry.Left{Asked: left.Asked}))
		left.Asked = nil
	}
	if text := stuckText(left); text != "" {
		texts = append(texts, "left behind: "+text)
	}
	return strings.Join(texts, "; ")
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func be(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
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
			b.cfg.Log.Info().Str("name", l.Socket.Name()).Str("address", l.Socket.Address()).Int("deploys", deploys).Int("asked", asked).
				Msg("the old socket is to be left by its holders")
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

// dropStale closes an old socket that no process has any more. The binder's lock is held.
func (b *Binder) dropStale(l registry.Listener) {
	f, _ := l.Socket.Figures()
	if text := queueText(l.Socket, f.Queue); text != "" {
		b.cfg.Log.Warn().Str("name", l.Socket.Name()).Str("address", l.Socket.Address()).Msg("the last process has left the old socket: " + text)
	}
	b.cfg.Registry.DropStale(l.Socket)
	b.closeListeners([]registry.Listener{l}, true)
	for _, now := range b.cfg.Registry.Listeners() {
		if now.Socket.Beside(l.Socket) {
			b.endSharing(now.Socket)
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
		b.cfg.Log.Warn().Err(err).Str("spec", text).Msg("an old socket is not followed any more")
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
