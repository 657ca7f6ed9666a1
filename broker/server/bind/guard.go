package bind

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/internal/procfs"
	"github.com/fdbroker/fdbroker/protocol"
)

// A Doubt says what about a configuration file looks as if it had been cut short, as an editor leaves it behind on a
// full disk. The zero Doubt is none.
type Doubt struct {
	Empty   bool   // it has no spec
	Unended bool   // its last line has no newline
	Last    string // the name of the spec on that line; empty: it has none
}

// ReloadOptions changes what [Binder.Reload] does.
type ReloadOptions struct {
	// Force unbinds listeners that are in use, and believes a configuration in spite of a Doubt.
	Force bool
	// Rebind gives a listener a new socket also if processes would be left on the old one that do not follow by
	// themselves, and asks those to leave. It also replaces a socket that cannot be repaired.
	Rebind bool
	Doubt  Doubt
}

// guard returns an error, a [*protocol.ReloadFailedError], if the plan would take a listener away that is in use, or
// believes too much of a doubtful file. It gives a reason for each listener.
//
// A file that was cut short is a configuration, too, because the first part of a spec is one: web=:80 of web=:8080. So
// its last line must have an end, or the file takes nothing away, neither a listener nor an address, and the last line
// changes no listener in use. A file that is the same as before, but for the missing newline, passes, and so does one
// with a new listener on its last line.
func (p *plan) guard(d Doubt) error {
	var reasons []string
	atRisk := slices.Clone(p.toClose)
	changes := d.Unended && p.changesBound(d.Last)
	if changes {
		atRisk = append(atRisk, d.Last)
	}
	uses := p.binder.uses(atRisk)
	for _, name := range p.toClose {
		if use := uses[name]; use != "" {
			reasons = append(reasons, fmt.Sprintf("%q would be unbound, and is in use: %s", name, use))
		}
	}
	const unended = "its line may be cut short, because it has no newline at its end"
	switch use := uses[d.Last]; {
	case !changes:
	case use != "":
		reasons = append(reasons, fmt.Sprintf("%q would change, and is in use (%s); %s", d.Last, use, unended))
	case slices.Contains(p.replaced, d.Last):
		reasons = append(reasons, fmt.Sprintf("%q would be unbound from its address; %s", d.Last, unended))
	}
	switch n := len(p.toClose); {
	case n == 0:
	case d.Empty:
		reasons = append(reasons, fmt.Sprintf("the configuration has no listener, and would unbind %s", someOf(p.toClose)))
	case d.Unended:
		reasons = append(reasons, fmt.Sprintf("the configuration may be cut short, because its last line has no newline "+
			"at its end, and would unbind %s", someOf(p.toClose)))
	}
	if len(reasons) == 0 {
		return nil
	}
	const force = "nothing changed; to load it anyway: fdclient reload --force"
	return &protocol.ReloadFailedError{Reasons: append(reasons, force)}
}

// changesBound reports whether the plan changes the listener of that name.
func (p *plan) changesBound(name string) bool {
	return slices.Contains(p.replaced, name) ||
		slices.ContainsFunc(p.toAlter, func(a alteration) bool { return a.to.Name == name })
}

// someOf lists names for a message.
func someOf(names []string) string {
	const most = 8
	if more := len(names) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), more)
	}
	return strings.Join(names, ", ")
}

// usersTime bounds the search for processes without a grant.
const usersTime = time.Second

// uses returns, in words, by whom listeners are used: by holders, by connections or packets in their queue, or by
// processes that have the socket without a grant. The result has only those that are used.
func (b *Binder) uses(names []string) map[string]string {
	uses := make(map[string]string)
	if len(names) == 0 {
		return uses
	}
	shots := b.cfg.Registry.Snapshots(names)
	holders := b.holdersOf(names)
	sockets := make([]*socket.Socket, len(shots))
	var unheld []*socket.Socket
	for i, shot := range shots {
		if sockets[i] = shot.Socket; len(holders[shot.Socket.Name()]) == 0 {
			unheld = append(unheld, shot.Socket)
		}
	}
	users := socket.Users(unheld, usersTime)
	figures, _ := socket.FiguresOf(sockets)
	for i, sock := range sockets {
		var words []string
		if n := shots[i].Unseen; n > 0 {
			words = append(words, fmt.Sprintf("it was given to processes in another pid namespace, which the broker cannot follow (unseen: %d)", n))
		}
		if held := holders[sock.Name()]; len(held) > 0 {
			words = append(words, "held by "+someOf(held))
		}
		if strays := users[sock]; len(strays) > 0 {
			var texts []string
			for _, p := range strays {
				texts = append(texts, processText(p.PID, p.Command))
			}
			words = append(words, "open in "+someOf(texts))
		}
		if queue := queueText(sock, figures[i].Queue); queue != "" {
			words = append(words, queue)
		}
		if len(words) > 0 {
			uses[sock.Name()] = strings.Join(words, ", ")
		}
	}
	return uses
}

// holdersOf returns the holders of listeners, in words, by name.
func (b *Binder) holdersOf(names []string) map[string][]string {
	_, grants := b.cfg.Registry.List(nil)
	texts := make(map[string][]string)
	for _, h := range grants {
		if h.State == protocol.StateWaiting || h.State == protocol.StateStandby {
			continue
		}
		for _, name := range h.Names {
			if slices.Contains(names, name) {
				texts[name] = append(texts[name], processText(h.PID, procfs.Name(h.PID)))
			}
		}
	}
	return texts
}

func processText(pid int, command string) string {
	if pid == 0 {
		return "a process in another pid namespace"
	}
	return fmt.Sprintf("pid %d (%s)", pid, command)
}

func queueText(sock *socket.Socket, queued uint32) string {
	switch {
	case queued == 0:
		return ""
	case sock.Packet():
		return fmt.Sprintf("%d bytes queued", queued)
	case queued == 1:
		return "1 connection queued"
	}
	return fmt.Sprintf("%d connections queued", queued)
}
