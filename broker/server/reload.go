//go:build linux

package server

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// Passed is a socket that somebody else has opened for the broker.
type Passed struct {
	Name string // a listener's, see [socket.CheckName]
	FD   *scmrights.FD
}

// Changes is what a Reload has done, by name.
type Changes struct {
	Bound, Unbound []string
	// Changed have another spec than before. Their sockets are the same where the
	// difference allows that; otherwise holders of the old one go on with it, and
	// are told that it was unbound.
	Changed []string
}

// Configure binds the listeners of the configuration, all or none. It takes passed,
// in which no name may come twice: a socket by the name of a spec is used instead of
// binding, and any other becomes a listener, which is not of the configuration. The
// error is as that of [Server.Bind]. An address that is in use by the socket of an
// earlier broker of this user is taken back from who holds it still, unless
// [Config.NoRecover] is set. One that may be such a socket and cannot be taken is
// waited for by [Server.Settle], which has to be called while Serve runs.
func (s *Server) Configure(specs []socket.Spec, passed []Passed) error {
	s.binding.Lock()
	defer s.binding.Unlock()
	t := &transition{server: s, passed: make(map[string]*scmrights.FD, len(passed)), recovers: !s.cfg.NoRecover}
	defer t.closePassed()
	all := slices.Clip(specs) // copied where there is more
	for _, p := range passed {
		t.passed[p.Name] = p.FD
		if !slices.ContainsFunc(specs, func(spec socket.Spec) bool { return spec.Name == p.Name }) {
			spec, err := socket.SpecOf(p.Name, p.FD)
			if err != nil {
				t.fail(protocol.BindFailure{Spec: p.Name, Message: err.Error()})
				continue
			}
			all = append(all, spec)
		}
	}
	if err := t.plan(all, len(specs)); err != nil {
		return err
	}
	if err := t.make(); err != nil {
		return err
	}
	s.dropOrphans()
	return nil
}

// Reload makes specs the configuration, all of it or nothing. What was configured
// and has the same spec is not touched. What is new is bound, what is gone is
// unbound. What has changed keeps its socket where that can become what the spec
// says; otherwise a new one is bound before the old one is closed. A listener that
// was bound by [Server.Bind] is left alone: one of its name and spec makes it part
// of the configuration, another spec is an error, as that of Bind.
func (s *Server) Reload(specs []socket.Spec) (Changes, error) {
	s.binding.Lock()
	defer s.binding.Unlock()
	t := &transition{server: s}
	if err := t.plan(specs, len(specs)); err != nil {
		return Changes{}, err
	}
	if err := t.make(); err != nil {
		return Changes{}, err
	}
	c := t.changes()
	s.log.Info().Strs("bound", c.Bound).Strs("unbound", c.Unbound).Strs("changed", c.Changed).Msg("configuration loaded")
	return c, nil
}

// transition leads from one configuration to the next. Whoever makes it has the
// server's binding, so that nobody else changes what is bound.
type transition struct {
	server     *Server
	passed     map[string]*scmrights.FD // to be adopted, by name
	configured []string                 // all names of the next configuration
	fresh      []socket.Spec            // to be opened
	altered    []alteration             // sockets that become something else
	replaced   []string                 // names of fresh that have a socket now
	gone       []string
	old        []*socket.Socket // of replaced and gone

	recovers  bool                        // what is in use may be taken back
	impatient bool                        // and is not waited for
	inUse     []*inUse                    // addresses of fresh
	holders   map[string][]socket.Process // of what was taken back, by name
	pending   []*inUse                    // may be given back

	opened []*socket.Socket
	settle []func(keep bool) // for those of opened that are not just closed otherwise
	failed protocol.BindFailedError
}

// alteration is a socket that becomes that of another spec.
type alteration struct {
	listener *listener
	was, to  socket.Spec
}

func (t *transition) fail(f protocol.BindFailure) { t.failed.Failures = append(t.failed.Failures, f) }

// plan compares specs, of which the first n are the configuration, with what is
// bound.
func (t *transition) plan(specs []socket.Spec, n int) error {
	r := t.server.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over() {
		return ErrClosed
	}
	seen := make(map[string]int, len(specs)) // where in specs
	if len(r.listeners) == 0 {
		t.fresh = make([]socket.Spec, 0, len(specs))
	}
	for i, spec := range specs {
		if twin, twice := seen[spec.Name]; twice {
			return &protocol.NameInUseError{Name: spec.Name, Spec: specs[twin].String()}
		}
		seen[spec.Name] = i
		if err := t.compare(r.listeners[spec.Name], spec); err != nil {
			return err
		}
	}
	t.configured = make([]string, 0, n)
	for _, spec := range specs[:n] {
		t.configured = append(t.configured, spec.Name)
	}
	for _, l := range r.byName() {
		name := l.socket.Spec().Name
		if _, stays := seen[name]; l.configured && !stays {
			t.gone = append(t.gone, name)
			t.old = append(t.old, l.socket)
		}
	}
	if most := t.server.cfg.MaxNames; len(r.listeners)-len(t.old)+len(t.fresh) > most {
		return &protocol.LimitError{Limit: "names", Max: most}
	}
	return nil
}

// compare decides what has to be done for l, which is nil where there is none, to be
// the listener of spec.
func (t *transition) compare(l *listener, spec socket.Spec) error {
	switch {
	case l == nil:
		t.fresh = append(t.fresh, spec)
	case t.passed[spec.Name] != nil && inodeOf(t.passed[spec.Name]) != inodeOf(l.socket.FD()): // made anew since
		t.fresh = append(t.fresh, spec)
		t.replaced = append(t.replaced, spec.Name)
		t.old = append(t.old, l.socket)
	case l.socket.Spec().Equal(spec):
	case !l.configured && !l.socket.Adopted():
		return &protocol.NameInUseError{Name: spec.Name, Spec: l.socket.Spec().String()}
	case l.socket.CanBecome(spec):
		t.altered = append(t.altered, alteration{l, l.socket.Spec(), spec})
	default:
		t.fresh = append(t.fresh, spec)
		t.replaced = append(t.replaced, spec.Name)
		t.old = append(t.old, l.socket)
	}
	return nil
}

// make does what was planned, or nothing.
func (t *transition) make() error {
	t.opened = make([]*socket.Socket, 0, len(t.fresh))
	for _, spec := range t.fresh {
		t.open(spec)
	}
	t.takeBack()
	done := 0
	if len(t.failed.Failures) == 0 { // the altered ones are in use: touched last
		for _, a := range t.altered {
			if err := a.listener.socket.Become(a.to); err != nil {
				t.fail(failureOf(a.to, err))
				break
			}
			done++
		}
	}
	if len(t.failed.Failures) > 0 {
		t.giveUp()
		for _, a := range t.altered[:done] {
			_ = a.listener.socket.Become(a.was) // as it was a moment ago
		}
		t.settled(false)
		return &t.failed
	}
	t.server.keepSockets(t.opened)
	t.server.locked(t.commit)
	t.settled(true)
	t.tellTakenBack()
	t.tellPending()
	t.server.closeAll(t.old)
	t.server.counted()
	return nil
}

func (t *transition) settled(keep bool) {
	for _, settle := range t.settle {
		settle(keep)
	}
	if !keep {
		for _, sock := range t.opened {
			_ = sock.Close() // nobody has it yet
		}
	}
}

// open opens or adopts the socket of spec.
func (t *transition) open(spec socket.Spec) {
	var sock *socket.Socket
	var settle func(keep bool)
	var err error
	if fd := t.passed[spec.Name]; fd != nil {
		delete(t.passed, spec.Name)
		sock, err = socket.Adopt(spec, fd)
	} else if sock = t.server.retakeOrphan(spec); sock != nil {
		t.server.log.Warn().Str("name", spec.Name).Str("address", sock.Address()).Msg("known again by its address")
	} else if len(t.old) > 0 {
		sock, settle, err = socket.OpenBeside(spec, t.old)
	} else if t.recovers {
		sock, err = socket.OpenBriefly(spec)
		if errors.Is(err, unix.EADDRINUSE) {
			t.inUse = append(t.inUse, &inUse{spec: spec})
			return
		}
	} else {
		sock, err = socket.Open(spec)
	}
	if err != nil {
		t.fail(failureOf(spec, err))
		return
	}
	t.opened = append(t.opened, sock)
	if settle != nil {
		t.settle = append(t.settle, settle)
	}
}

// commit makes the registry what was planned. Nobody sees anything in between.
func (t *transition) commit() {
	r := t.server.registry
	_, _ = r.remove(slices.Concat(t.replaced, t.gone)) // they are there
	r.insert(t.opened)
	for _, name := range t.configured {
		if l := r.listeners[name]; l != nil && !l.configured { // else it is pending
			l.configured = true
			r.saveListener(l)
		}
	}
	r.await(t.pending)
	for _, a := range t.altered {
		r.restore(a.listener)
		r.saveListener(a.listener)
	}
	r.freed = true
}

// changes returns what was done.
func (t *transition) changes() Changes {
	c := Changes{Unbound: t.gone, Changed: slices.Clone(t.replaced)}
	for _, spec := range t.fresh {
		if !slices.Contains(t.replaced, spec.Name) {
			c.Bound = append(c.Bound, spec.Name)
		}
	}
	for _, a := range t.altered {
		c.Changed = append(c.Changed, a.to.Name)
	}
	slices.Sort(c.Bound)
	slices.Sort(c.Changed)
	return c
}

// closePassed closes what was not adopted.
func (t *transition) closePassed() {
	for _, fd := range t.passed {
		_ = fd.Close()
	}
}

// reload answers Reload.
func (s *session) reload() (any, error) {
	if !s.privileged() {
		return nil, &protocol.PermissionDeniedError{}
	}
	if s.server.cfg.Reload == nil {
		return nil, &protocol.ReloadFailedError{Reasons: []string{"this broker has no configuration to read again"}}
	}
	c, err := s.server.cfg.Reload()
	if err != nil {
		return nil, err
	}
	return protocol.ReloadReply{
		Bound: append([]string{}, c.Bound...), Unbound: append([]string{}, c.Unbound...), Changed: append([]string{}, c.Changed...),
	}, nil
}
