//go:build linux

package server

import (
	"os"
	"slices"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/protocol"
)

// inUse is a spec whose address somebody has.
type inUse struct {
	spec    socket.Spec
	failure protocol.BindFailure // what it comes to in the end
	invited invitations          // to give it back; guarded by the registry's lock
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
			t.remains(u, r)
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

// remains notes that somebody has the address of u, and who, unless it is free by now.
func (t *transition) remains(u *inUse, r socket.Recovered) {
	sock, err := socket.Open(u.spec)
	if err == nil {
		t.opened = append(t.opened, sock)
		return
	}
	u.failure = failureOf(u.spec, err)
	own := slices.ContainsFunc(u.failure.Processes, func(p protocol.Process) bool { return p.PID == os.Getpid() })
	if r.Why != "" && !own {
		u.failure.Message += " (not taken back: " + r.Why + ")"
	}
	if r.Offer && !t.impatient && slices.Contains(t.configured, u.spec.Name) {
		t.pending = append(t.pending, u)
	} else {
		t.fail(u.failure)
	}
}

// tellPending says what is waited for.
func (t *transition) tellPending() {
	for _, u := range t.pending {
		t.server.log.Warn().Str("name", u.spec.Name).Int64("wait_ms", t.server.cfg.OfferTime.Milliseconds()).
			Str("why", u.failure.Message).Msg("waiting for a worker of an earlier broker to give the socket back")
	}
}

// giveUp makes failures of what could have been waited for.
func (t *transition) giveUp() {
	for _, u := range t.pending {
		t.fail(u.failure)
	}
	t.pending = nil
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
			known := t.server.found(h.PID, name, 0, func(*socket.Socket) bool { return true }) // it was seen to, a moment ago
			t.server.log.Warn().Str("name", name).Str("address", sock.Address()).Int("pid", h.PID).
				Str("command", h.Command).Bool("holder", known).Msg("taken back from a process that an earlier broker gave it to")
		}
	}
}
