package bind

import (
	"errors"
	"slices"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/protocol"
	"golang.org/x/sys/unix"
)

// checkConflicts returns a [*protocol.BindFailedError] if the sockets of the next set could not all be bound one after
// the other, as by a start: the kernel is not asked, because it lets new sockets be bound beside old ones.
func (p *plan) checkConflicts() error {
	var index spec.ClaimIndex
	var failed protocol.BindFailedError
	gone := make(map[string]bool)
	for _, name := range append(append([]string{}, p.replaced...), p.toClose...) {
		gone[name] = true
	}
	altered := make(map[string]spec.Spec)
	for _, a := range p.toAlter {
		altered[a.to.Name] = a.to
	}
	bound := make(map[string]bool)
	for _, l := range p.binder.cfg.Registry.Listeners() {
		name := l.Socket.Name()
		if gone[name] || l.Socket.Any() {
			continue
		}
		claim := l.Socket.Claim()
		if to, is := altered[name]; is {
			claim.Device = to.Opts().Device
			if taken, found := index.Find(claim); found {
				failed.Failures = append(failed.Failures, failureOf(to, bindError(to, takenBy(taken))))
			}
		}
		index.Add(name, claim)
		bound[name] = true
	}
	for _, s := range p.toOpen {
		if p.passed[s.Name] != nil { // it is bound already, and may be anywhere
			continue
		}
		claims, _ := s.Claims() // opening it returns the error
		if name, found := index.Find(claims...); found {
			err := takenBy(name)
			if !bound[name] {
				err = spec.TakenBy(name)
			}
			failed.Failures = append(failed.Failures, failureOf(s, bindError(s, err)))
			continue
		}
		index.Add(s.Name, claims...)
	}
	if len(failed.Failures) > 0 {
		return &failed
	}
	return nil
}

// dropConflicts does not open what could not be bound, nor, then, what takes the place of a socket in use: other specs
// are opened, so that the error says all that is wrong.
func (p *plan) dropConflicts() {
	err := p.checkConflicts()
	failed, ok := errors.AsType[*protocol.BindFailedError](err)
	if !ok {
		return
	}
	p.failed.Failures = append(p.failed.Failures, failed.Failures...)
	p.toOpen = slices.DeleteFunc(p.toOpen, func(s spec.Spec) bool {
		return slices.Contains(p.replaced, s.Name) || slices.ContainsFunc(failed.Failures, func(f protocol.BindFailure) bool { return f.Spec == s.String() })
	})
}

func takenBy(name string) error {
	return spec.Problemf(unix.EADDRINUSE, "already bound by this broker as %q", name)
}

func bindError(s spec.Spec, err error) error { return socket.NewBindError(s, err) }

// nameOf returns the name of another listener that has the same socket as sock, or one at its address.
func (b *Binder) nameOf(sock *socket.Socket) (name string, taken bool) {
	var index spec.ClaimIndex
	for _, l := range append(b.cfg.Registry.Listeners(), b.cfg.Registry.Stale()...) {
		if l.Socket.Cookie() != 0 && l.Socket.Cookie() == sock.Cookie() {
			return l.Socket.Name(), true
		}
	}
	if sock.Any() {
		return "", false
	}
	for _, l := range b.cfg.Registry.Listeners() {
		if !l.Socket.Any() {
			index.Add(l.Socket.Name(), l.Socket.Claim())
		}
	}
	return index.Find(sock.Claim())
}
