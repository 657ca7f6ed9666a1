package bind

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/procfs"
	"github.com/fdbroker/fdbroker/protocol"
)

// A plan renews a name if the socket cannot become what the spec says. No process may be left on the old socket silently.

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
		if slices.Contains(p.toClose, name) { // a new worker could not get it
			left.Asked, left.Rolling = append(left.Asked, left.Rolling...), nil
		}
		addCommands(left)
		p.left[name] = left
		if text := stuckText(left); text != "" {
			reasons = append(reasons, fmt.Sprintf("%s, and would leave these on the old socket: %s", p.renewalText(name), text))
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
		texts = append(texts, processText(h.PID, h.Command))
	}
	for _, pid := range left.Strays {
		texts = append(texts, processText(pid, procfs.Name(pid)))
	}
	if left.Unseen > 0 {
		texts = append(texts, fmt.Sprintf("%d processes in another pid namespace", left.Unseen))
	}
	return someOf(texts)
}

// followRenewed follows the old sockets of these names.
func (p *plan) followRenewed(names []string) {
	b := p.binder
	for _, l := range b.cfg.Registry.Stale() {
		name := l.Socket.Name()
		if !slices.Contains(names, name) || b.isFollowed(l.Socket) {
			continue
		}
		for _, pid := range p.left[name].Strays {
			b.cfg.Registry.DiscoverStale(pid, l.Socket)
		}
		left := p.leftNow(l.Socket)
		p.left[name] = left
		b.cfg.Registry.NoteRenewed(l.Socket, LeftText(left, p.rebind))
		if left.Nobody() && len(b.cfg.Registry.StaleHolders(l.Socket)) == 0 {
			b.dropStale(l)
			continue
		}
		b.follow(l, true, p.rebind)
	}
}

// leftNow returns who is left on an old socket, of which some may have got it since checkLeft. Connections have left it.
func (p *plan) leftNow(old *socket.Socket) registry.Left {
	before, left := p.left[old.Name()], p.binder.cfg.Registry.LeftOn(old)
	left.Moving = before.Moving
	left.Strays = slices.DeleteFunc(slices.Clone(before.Strays), left.Knows)
	if slices.Contains(p.toClose, old.Name()) {
		left.Asked, left.Rolling = append(left.Asked, left.Rolling...), nil
	}
	addCommands(left)
	return left
}

// addCommands names the processes before they are asked to leave: soon they have no name any more.
func addCommands(left registry.Left) {
	for _, holders := range [][]protocol.Holder{left.Asked, left.Stuck} {
		for i := range holders {
			holders[i].Command = procfs.Name(holders[i].PID)
		}
	}
}

// askAgain asks the holders of sockets that were old before a reload to leave, and adds them to renewed. An earlier
// reload, or a start, may not have asked them.
func (b *Binder) askAgain(old []registry.Listener, renewed map[string]registry.Left) {
	for _, l := range old {
		left := b.cfg.Registry.LeftOn(l.Socket)
		if left.Nobody() {
			continue
		}
		addCommands(left)
		if _, known := renewed[l.Socket.Name()]; !known {
			renewed[l.Socket.Name()] = left
		}
		b.cfg.Registry.LeaveStale(l.Socket, true)
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
		texts = append(texts, "still on the old socket: "+text)
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
