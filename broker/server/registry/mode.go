package registry

import (
	"github.com/fdbroker/fdbroker/protocol"
)

// O_NONBLOCK is one bit that all holders of a socket share (docs/kernel.md, O_NONBLOCK). A request may
// say which mode it needs. The bit changes only while no other process can use the listener, and has its
// own setting again after the last one. A process that the broker cannot follow may use it for ever.

// setMode makes the mode of all listeners what q needs, or changes none.
func (r *Registry) setMode(q *Request, own *Grant, listeners []*listener) (err error) {
	var changed []*listener
	defer func() {
		if err != nil {
			for _, l := range changed {
				_, _ = r.cfg.Health.SetMode(l.Socket, !*q.Blocking)
			}
		}
	}()
	for _, l := range listeners {
		is, err := l.Socket.Blocking()
		if err != nil {
			return err
		}
		if is == *q.Blocking {
			continue
		}
		if len(l.holders) > 1 || len(l.holders) == 1 && l.holders[0] != own || l.inUnseenUse() {
			return &protocol.ConflictError{Name: l.Socket.Name(), Blocking: is, Holders: holdersOf(l), Unseen: l.uses()}
		}
		if _, err := r.cfg.Health.SetMode(l.Socket, *q.Blocking); err != nil {
			return err
		}
		changed = append(changed, l)
	}
	for _, l := range listeners {
		if l.blocking != *q.Blocking {
			l.blocking = *q.Blocking
			r.saveListener(l)
		}
	}
	return nil
}

// reapForMode ends grants of processes that are gone on the listeners whose mode q cannot have as it
// is, so that a dead holder is no conflict.
func (r *Registry) reapForMode(q *Request, listeners []*listener) {
	for _, l := range listeners {
		if is, err := l.Socket.Blocking(); err == nil && is != *q.Blocking {
			r.reap(l)
		}
	}
}

// resetMode gives a listener that nobody uses its own mode back. An unbound socket is left as it is:
// its workers go on accepting.
func (r *Registry) resetMode(l *listener) {
	if l.inUse() || l.unbound {
		return
	}
	own := l.Socket.Spec().Options.Blocking
	changed, err := r.cfg.Health.SetMode(l.Socket, own)
	if changed {
		r.noteListener(protocol.EventFlipped, l)
	}
	if err == nil && l.blocking != own {
		l.blocking = own
		r.saveListener(l)
	}
}
