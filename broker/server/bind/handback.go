package bind

import (
	"context"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/fdbroker/fdbroker/broker/server/registry"
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/broker/socket/holders"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/fdbroker/fdbroker/scmrights"
)

// After a total loss, of the broker and its store, the workers still have the sockets. At the start the
// binder recovers them from the workers (pidfd_getfd). If it may not, their names are pending for a while:
// a worker can hand its socket back.

// handBack is a spec whose address others have.
type handBack struct {
	spec    spec.Spec
	failure protocol.BindFailure // what it comes to in the end
}

// recover takes the sockets that an earlier broker had opened from their holders.
func (p *plan) recover() {
	if len(p.inUse) == 0 {
		return
	}
	specs := make([]spec.Spec, len(p.inUse))
	for i, h := range p.inUse {
		specs[i] = h.spec
	}
	p.holders = make(map[string][]holders.Process)
	for i, r := range socket.Recover(specs) {
		if r.Socket == nil {
			p.cannotRecover(p.inUse[i], r)
			continue
		}
		p.opened = append(p.opened, r.Socket)
		p.holders[specs[i].Name] = r.Holders
	}
}

// cannotRecover makes h pending, or a failure, unless its address is free by now.
func (p *plan) cannotRecover(h *handBack, r socket.Recovered) {
	sock, err := socket.Open(h.spec, socket.OpenConfig{})
	if err == nil {
		p.opened = append(p.opened, sock)
		return
	}
	h.failure = failureOf(h.spec, err)
	own := slices.ContainsFunc(h.failure.Processes, func(p protocol.Process) bool { return p.PID == os.Getpid() })
	if r.Why != "" && !own {
		h.failure.Message += " (not recovered: " + r.Why + ")"
	}
	if !r.MayHandBack || !p.waits || !slices.Contains(p.own, h.spec.Name) {
		p.fail(h.failure)
		return
	}
	p.pending = append(p.pending, h)
	p.binder.cfg.Log.Warn().Str("name", h.spec.Name).Int64("wait_ms", p.binder.cfg.HandBackTime.Milliseconds()).
		Str("why", h.failure.Message).Msg("waiting for a worker of the previous broker to give the socket back")
}

// reportRecovered records the holders of what was recovered.
func (p *plan) reportRecovered() {
	for _, sock := range p.opened {
		name := sock.Name()
		for _, h := range p.holders[name] {
			// They were seen to hold it, a moment ago.
			known := p.binder.cfg.Registry.Discover(h.PID, name, 0, func(*socket.Socket) bool { return true })
			p.binder.cfg.Log.Warn().Str("name", name).Str("address", sock.Address()).Int("pid", h.PID).
				Str("command", h.Command).Bool("holder", known).Msg("recovered the socket from a worker of the previous broker")
		}
	}
}

// WaitPending waits until all that [Binder.Configure] has left pending is bound. After HandBackTime it tries
// once more to bind the rest. It returns nil at once if nothing is pending, and also when ctx ends;
// otherwise the error is a [*protocol.BindFailedError] with what is missing, and the rest is bound.
func (b *Binder) WaitPending(ctx context.Context) error {
	b.pending.Lock()
	done := b.pending.done
	b.pending.Unlock()
	if done == nil {
		return nil
	}
	timer := time.NewTimer(b.cfg.HandBackTime)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return nil
	case <-timer.C:
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.newPlan()
	p.recovers = true
	b.pending.Lock()
	for _, name := range slices.Sorted(maps.Keys(b.pending.names)) {
		h := b.pending.names[name]
		p.own, p.toOpen = append(p.own, name), append(p.toOpen, h.spec)
	}
	clear(b.pending.names)
	b.pending.Unlock()
	if len(p.toOpen) == 0 {
		return nil
	}
	if _, err := b.cfg.Registry.Apply(registry.Change{Expire: p.own}); err != nil {
		return err
	}
	return p.execute()
}

// addHandBacks makes names pending.
func (b *Binder) addHandBacks(all []*handBack) {
	if len(all) == 0 {
		return
	}
	b.pending.Lock()
	defer b.pending.Unlock()
	if b.pending.names == nil {
		b.pending.names, b.pending.done = make(map[string]*handBack), make(chan struct{})
	}
	for _, h := range all {
		b.pending.names[h.spec.Name] = h
	}
}

// endHandBacks makes the names that a change has bound pending no more.
func (b *Binder) endHandBacks(c registry.Change) {
	b.pending.Lock()
	defer b.pending.Unlock()
	for _, e := range c.Add {
		name := e.Socket.Name()
		if b.pending.names[name] == nil {
			continue
		}
		if delete(b.pending.names, name); len(b.pending.names) == 0 {
			close(b.pending.done)
		}
	}
}

// Pending returns the spec of a name, and an error unless it may be handed back: a
// [*protocol.NameInUseError] if it is bound, else a [*protocol.UnknownNameError].
func (b *Binder) Pending(name string) (spec.Spec, error) {
	if l, bound := b.cfg.Registry.Lookup(name); bound {
		return l.Socket.Spec(), &protocol.NameInUseError{Name: name, Spec: l.Socket.Spec().String()}
	}
	b.pending.Lock()
	defer b.pending.Unlock()
	if h := b.pending.names[name]; h != nil && b.cfg.Registry.Phase() < registry.Stopped {
		return h.spec, nil
	}
	return spec.Spec{}, &protocol.UnknownNameError{Name: name}
}

// HandBack takes fd and makes it the socket of a pending name. It returns the processes of claim that are its holders
// then.
func (b *Binder) HandBack(name string, fd *scmrights.FD, claim registry.Claim) (holders []int, err error) {
	s, err := b.Pending(name)
	if err != nil {
		_ = fd.Close()
		return nil, err
	}
	sock, err := socket.Adopt(s, fd, socket.Ours) // may have to resolve a host's name
	if err != nil {
		return nil, &protocol.BindFailedError{Failures: []protocol.BindFailure{failureOf(s, err)}}
	}
	claimed := claim.Check(name)
	defer claimed.Drop()
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, err := b.Pending(name); err != nil {
		sock.Abort()
		return nil, err
	}
	err = b.apply([]*socket.Socket{sock}, registry.Change{Own: []string{name}, Claimed: claimed})
	return claimed.PIDs(), err
}

// Lose makes s pending, as after a start at which its address was in use by a process that could not be
// looked into. It is for tests.
func (b *Binder) Lose(s spec.Spec) {
	b.addHandBacks([]*handBack{{spec: s}})
	_, _ = b.cfg.Registry.Apply(registry.Change{Pending: []string{s.Name}})
}
