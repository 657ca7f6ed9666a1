//go:build linux

package server

import (
	"github.com/fdbroker/fdbroker/broker/socket"
)

// inUse is a spec whose address somebody has, and what was said to that.
type inUse struct {
	spec socket.Spec
	err  error
}

// takeBack gets back the sockets that an earlier broker had opened, from those who
// hold them still.
func (t *transition) takeBack() {
	if len(t.inUse) == 0 {
		return
	}
	specs := make([]socket.Spec, len(t.inUse))
	for i, u := range t.inUse {
		specs[i] = u.spec
	}
	t.holders = make(map[string][]socket.Process)
	for i, r := range socket.Recover(specs) {
		u := t.inUse[i]
		if r.Socket == nil {
			f := failureOf(u.spec, u.err)
			if r.Why != "" {
				f.Message += " (not taken back: " + r.Why + ")"
			}
			t.fail(f)
			continue
		}
		t.opened = append(t.opened, r.Socket)
		t.settle = append(t.settle, func(keep bool) {
			if !keep {
				_ = r.Socket.Release() // others go on with it
			}
		})
		t.holders[u.spec.Name] = r.Holders
	}
}

// tellTakenBack says what was taken back, and records who holds it.
func (t *transition) tellTakenBack() {
	for _, sock := range t.opened {
		name := sock.Spec().Name
		holders, taken := t.holders[name]
		if !taken {
			continue
		}
		for _, h := range holders {
			known := t.server.holds(h.PID, name)
			t.server.log.Warn().Str("name", name).Str("address", sock.Address()).Int("pid", h.PID).
				Str("command", h.Command).Bool("holder", known).Msg("taken back from a process that an earlier broker gave it to")
		}
	}
}
