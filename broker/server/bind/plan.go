package bind

import (
	"errors"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/broker/socket/holders"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// plan leads from one set of listeners to the next. The binder's lock is held as long as there is one.
type plan struct {
	binder   *Binder
	passed   map[string]*scmrights.FD // to be adopted, by name
	recovers bool                     // addresses in use may be recovered
	waits    bool                     // and waited for
	rebind   bool                     // see ReloadOptions
	strict   bool                     // nobody may be left on an old socket who was not there at checkLeft
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
	if p.strict {
		c.Left = p.left
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
	maps.Copy(c.Renewed, p.left)
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
