package supervisor

import (
	"slices"
	"time"
)

// mayPrestart reports whether all workers run, or are on standby, and none is prestarted.
func (p *pool) mayPrestart() bool {
	return p.config.Command.Prestart && p.open && !p.ending && p.prestarted == nil &&
		!slices.ContainsFunc(p.slots, func(sl *slot) bool { return sl.current == nil || sl.current.step < stepStandby })
}

// prestart starts a worker that waits until it is needed: then it serves sooner.
func (p *pool) prestart(now time.Time) {
	if p.prestartAfter.After(now) || !p.mayPrestart() {
		return
	}
	w, err := p.newWorker(true)
	if err != nil {
		p.prestartAfter = now.Add(p.config.RestartMax)
		p.log.Warn().Err(err).Msg("cannot start a worker ahead")
		return
	}
	p.prestarted = w
}

// takePrestarted returns the prestarted worker, which now starts, or nil.
func (p *pool) takePrestarted() *worker {
	w := p.prestarted
	if w != nil {
		p.prestarted = nil
		w.letStart()
	}
	return w
}

// dropPrestarted makes the prestarted worker exit.
func (p *pool) dropPrestarted() {
	if p.prestarted != nil {
		_ = p.prestarted.startPipe.Close()
		p.prestarted = nil
	}
}

// prestartedExited notes that w has exited while it was prestarted.
func (p *pool) prestartedExited(w *worker, now time.Time) {
	if w == p.prestarted {
		p.prestarted, p.prestartAfter = nil, now.Add(p.config.RestartMax)
	}
}
