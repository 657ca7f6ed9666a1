package bind

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/broker/socket/holders"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// Changes is what a Reload has done, by name.
type Changes struct {
	Bound, Unbound []string
	// Changed have another spec than before, or another socket.
	Changed []string
	// Renewed are those that have a new socket, by name, and who had the old one.
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

// Reload makes specs the configuration, all of it or nothing. What was configured and has the same spec is not touched.
// What is new is bound, what is gone is unbound. What has changed keeps its socket if that can become what the spec
// says; otherwise a new one is bound. Without Rebind, it is a
// [*protocol.ReloadFailedError] to give a listener a new one if processes would be left on the old one. A listener that was bound by [Binder.Bind] is left
// alone: one of its name and spec makes it part of the configuration, another spec is an error, as that of Bind. Without
// Force, it is a [*protocol.ReloadFailedError] to unbind what is in use.
func (b *Binder) Reload(specs []spec.Spec, o ReloadOptions) (Changes, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.newPlan()
	p.rebind = o.Rebind
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

// plan leads from one set of listeners to the next. The binder's lock is held as long as there is one.
type plan struct {
	binder   *Binder
	passed   map[string]*scmrights.FD // to be adopted, by name
	recovers bool                     // addresses in use may be recovered
	waits    bool                     // and waited for
	rebind   bool                     // see ReloadOptions
	seen     map[string]*spec.Spec    // the specs of the next set

	own      []string // names that belong to the configuration
	toOpen   []spec.Spec
	toAlter  []alteration
	replaced []string // names of toOpen that have a socket now
	toClose  []string // names that are gone
	old      []*socket.Socket
	left     map[string]registry.Left // who has the sockets of replaced and of toClose

	opened  []*socket.Socket
	inUse   []*handBack                  // addresses of toOpen that others have
	pending []*handBack                  // those that may be handed back
	holders map[string][]holders.Process // of what was recovered, by name
	failed  protocol.BindFailedError
}

func (b *Binder) newPlan() *plan {
	return &plan{binder: b, passed: make(map[string]*scmrights.FD), seen: make(map[string]*spec.Spec)}
}

func (p *plan) fail(f protocol.BindFailure) { p.failed.Failures = append(p.failed.Failures, f) }

// add plans what has to be done for s: decide says so if there is a listener of its name.
func (p *plan) add(s spec.Spec, decide func(l registry.Listener, bound bool, s spec.Spec) error) error {
	if twin := p.seen[s.Name]; twin != nil {
		if p.own == nil && twin.Equal(s) {
			return nil // Bind allows that
		}
		return &protocol.NameInUseError{Name: s.Name, Spec: twin.String()}
	}
	p.seen[s.Name] = &s
	l, bound := p.binder.cfg.Registry.Lookup(s.Name)
	return decide(l, bound, s)
}

// onlyNew decides for Bind.
func (p *plan) onlyNew(l registry.Listener, bound bool, s spec.Spec) error {
	switch {
	case !bound:
		p.toOpen = append(p.toOpen, s)
	case !l.Socket.Is(s):
		return &protocol.NameInUseError{Name: s.Name, Spec: l.Socket.Spec().String()}
	}
	return nil
}

// configured decides for a spec of the configuration.
func (p *plan) configured(l registry.Listener, bound bool, s spec.Spec) error {
	p.own = append(p.own, s.Name)
	return p.notConfigured(l, bound, s)
}

func (p *plan) notConfigured(l registry.Listener, bound bool, s spec.Spec) error {
	fd := p.passed[s.Name]
	switch {
	case !bound:
		p.toOpen = append(p.toOpen, s)
	case fd != nil && inodeOf(fd) != inodeOf(l.Socket.FD()): // another program has made it anew
		p.replace(l, s)
	case l.Socket.Spec().Equal(s):
		if p.rebind && p.binder.beyondRepair(l.Socket) {
			p.replace(l, s)
		}
	case !l.Configured && !l.Socket.Adopted() && !l.Socket.Is(s):
		return &protocol.NameInUseError{Name: s.Name, Spec: l.Socket.Spec().String()}
	case l.Socket.CanBecome(s):
		p.toAlter = append(p.toAlter, alteration{l.Socket, l.Socket.Spec(), s})
	default:
		p.replace(l, s)
	}
	return nil
}

func (p *plan) replace(l registry.Listener, s spec.Spec) {
	p.toOpen = append(p.toOpen, s)
	p.replaced = append(p.replaced, s.Name)
	p.old = append(p.old, l.Socket)
}

// removeMissing plans to unbind the configured listeners that the specs do not name.
func (p *plan) removeMissing() {
	for _, l := range p.binder.cfg.Registry.Listeners() {
		if name := l.Socket.Name(); l.Configured && p.seen[name] == nil {
			p.toClose = append(p.toClose, name)
			p.old = append(p.old, l.Socket)
		}
	}
}

// execute does what was planned, or nothing.
func (p *plan) execute() error {
	if err := p.binder.checkRoom(len(p.toOpen) - len(p.old)); err != nil {
		return err
	}
	p.dropConflicts()
	if p.left == nil {
		_ = p.checkLeft(true) // a start does not refuse
	}
	p.lastReplaced()
	for _, s := range p.toOpen {
		p.open(s)
	}
	p.recover()
	altered := p.alter()
	if len(p.failed.Failures) > 0 {
		for _, h := range p.pending {
			p.fail(h.failure)
		}
		abort(p.opened)
		undo(altered)
		return &p.failed
	}
	c := registry.Change{Remove: slices.Concat(p.replaced, p.toClose), Renew: p.renewed(), Own: p.own}
	for _, a := range altered {
		c.Altered = append(c.Altered, a.to.Name)
	}
	for _, h := range p.pending {
		c.Pending = append(c.Pending, h.spec.Name)
	}
	p.binder.addHandBacks(p.pending)
	if err := p.binder.apply(p.opened, c); err != nil {
		undo(altered)
		return err
	}
	p.followRenewed(c.Renew)
	p.reportRecovered()
	p.reportShortfalls()
	return nil
}

// reportShortfalls logs what the kernel gives less of than new and changed specs say.
func (p *plan) reportShortfalls() {
	specs := slices.Clone(p.toOpen)
	for _, a := range p.toAlter {
		specs = append(specs, a.to)
	}
	for _, s := range specs {
		for _, what := range socket.Shortfalls(s) {
			p.binder.cfg.Log.Warn().Str("name", s.Name).Msg(what)
		}
	}
}

// open opens or adopts the socket of s.
func (p *plan) open(s spec.Spec) {
	var sock *socket.Socket
	var err error
	if fd := p.passed[s.Name]; fd != nil {
		delete(p.passed, s.Name)
		sock, err = socket.Adopt(s, fd, socket.Foreign)
	} else if sock = p.binder.adoptOrphan(s); sock == nil {
		sock, err = socket.Open(s, socket.OpenConfig{Replacing: p.inTheWay(), SkipHolders: p.recovers})
	}
	switch {
	case err == nil:
		p.opened = append(p.opened, sock)
	case p.recovers && errors.Is(err, unix.EADDRINUSE):
		p.inUse = append(p.inUse, &handBack{spec: s})
	default:
		p.fail(failureOf(s, err))
	}
}

// changes returns what was done.
func (p *plan) changes() Changes {
	c := Changes{Unbound: p.toClose, Changed: slices.Clone(p.replaced), Renewed: make(map[string]registry.Left)}
	for _, name := range p.replaced {
		c.Renewed[name] = p.left[name]
	}
	for _, s := range p.toOpen {
		if !slices.Contains(p.replaced, s.Name) {
			c.Bound = append(c.Bound, s.Name)
		}
	}
	for _, a := range p.toAlter {
		c.Changed = append(c.Changed, a.to.Name)
	}
	slices.Sort(c.Bound)
	slices.Sort(c.Changed)
	return c
}

// closePassed closes what was not adopted.
func (p *plan) closePassed() {
	for _, fd := range p.passed {
		_ = fd.Close()
	}
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
