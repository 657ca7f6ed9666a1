package bind

import (
	"errors"
	"fmt"

	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/protocol"
)

// Changes is what a Reload has done, by name.
type Changes struct {
	Bound, Unbound []string
	// Changed have another spec than before, or another socket.
	Changed []string
	// Renewed are those of Changed that have a new socket, and of Unbound whose address another name has, by name, and who
	// had the old one. With Rebind, it has names with an old socket from before, too.
	Renewed map[string]registry.Left
}

// Configure binds the listeners of the configuration, all or none. It takes passed, in which no name may
// come twice: a socket by the name of a spec is used instead of binding, and any other becomes a listener
// that is not of the configuration. The error is as that of Bind. An address that is in use by the socket
// of an earlier broker of this user is recovered from its holders, unless NoRecover is set. If that may be
// such a socket and cannot be recovered, [Binder.WaitPending] waits for it to be handed back. Doubt is about the file
// that the specs were read from; nil: from none. Then a listener that this broker has taken over is unbound, although it
// is in use, if the specs do not have it.
func (b *Binder) Configure(specs []spec.Spec, passed []Passed, doubt *Doubt) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.newPlan()
	p.recovers, p.waits = !b.cfg.NoRecover, true
	defer p.closePassed()
	for _, fd := range passed {
		p.passed[fd.Name] = fd.FD
	}
	for _, s := range specs {
		if err := p.add(s, p.configured); err != nil {
			return err
		}
	}
	for _, fd := range passed {
		if p.seen[fd.Name] != nil {
			continue
		}
		s, err := socket.Donation{Name: fd.Name, Options: "blocking=no"}.Spec(fd.FD)
		if err != nil {
			p.fail(protocol.BindFailure{Spec: fd.Name, Message: fmt.Sprintf("the socket %q: %v", fd.Name, err)})
			continue
		}
		if err := p.add(s, p.notConfigured); err != nil {
			return err
		}
	}
	p.removeMissing()
	if doubt != nil {
		if err := p.guard(*doubt); err != nil {
			return err
		}
	}
	if err := p.execute(); err != nil {
		return err
	}
	b.dropOrphans()
	b.retireLate() // what takes the place of an old socket may have come only now
	return nil
}

// ConfigureEach binds those of specs that can be bound, after a Configure of them has failed. It changes nothing that is
// bound. It is for a broker that has taken over, which cannot refuse to start.
func (b *Binder) ConfigureEach(specs []spec.Spec) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range specs {
		if _, bound := b.cfg.Registry.Lookup(s.Name); bound {
			continue
		}
		p := b.newPlan()
		p.recovers, p.waits = !b.cfg.NoRecover, true
		err := p.add(s, p.configured)
		if err == nil {
			err = p.execute()
		}
		if err != nil {
			b.cfg.Log.Error().Err(err).Str("spec", s.String()).Msg("not bound")
		}
	}
}

// Reload makes specs the configuration, all of it or nothing. It leaves a configured listener alone if its spec is the
// same, binds new listeners, and unbinds those that specs do not have. A listener whose spec has changed keeps its
// socket if that can become what the spec says; otherwise Reload binds a new one. A spec of a listener that [Binder.Bind]
// has bound makes that part of the configuration if it is the same; a different one is an error, as that of Bind.
//
// The error is a [*protocol.ReloadFailedError] if processes would be left on an old socket, unless Rebind is set, and if
// a listener in use would be unbound, unless Force is set.
func (b *Binder) Reload(specs []spec.Spec, o ReloadOptions) (c Changes, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	const attempts = 3
	for range attempts {
		if c, err = b.reload(specs, o); !errors.Is(err, registry.ErrMoreLeft) {
			break
		}
	}
	return c, err
}

func (b *Binder) reload(specs []spec.Spec, o ReloadOptions) (Changes, error) {
	old := b.cfg.Registry.Stale()
	p := b.newPlan()
	p.rebind, p.strict = o.Rebind, !o.Rebind
	for _, s := range specs {
		if err := p.add(s, p.configured); err != nil {
			return Changes{}, err
		}
	}
	p.removeMissing()
	if err := p.checkConflicts(); err != nil { // first: the others are about what can be done
		return Changes{}, err
	}
	if !o.Force {
		if err := p.guard(o.Doubt); err != nil {
			return Changes{}, err
		}
	}
	if err := p.checkLeft(o.Rebind); err != nil {
		return Changes{}, err
	}
	if err := p.execute(); err != nil {
		return Changes{}, err
	}
	b.raise()
	c := p.changes()
	if o.Rebind {
		b.askAgain(old, c.Renewed)
	}
	b.cfg.Log.Info().Strs("bound", c.Bound).Strs("unbound", c.Unbound).Strs("changed", c.Changed).Msg("configuration loaded")
	return c, nil
}

// raise makes the backlogs follow net.core.somaxconn.
func (b *Binder) raise() {
	var sockets []*socket.Socket
	for _, l := range b.cfg.Registry.Listeners() {
		sockets = append(sockets, l.Socket)
	}
	var names []string
	for _, sock := range socket.Raise(sockets) {
		names = append(names, sock.Name())
	}
	if names != nil {
		b.cfg.Log.Info().Strs("names", names).Msg("net.core.somaxconn was raised, and so are these backlogs")
	}
}
