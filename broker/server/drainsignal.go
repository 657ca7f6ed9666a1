//go:build linux

package server

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/fdbroker/fdbroker/protocol"
	"golang.org/x/sys/unix"
)

// eventUnasked is what the log alone is told: a process that cannot be signalled.
const eventUnasked = "unasked"

// errNotTheirs refuses to signal a process of a user who might not do so.
var errNotTheirs = errors.New("the process has become another user's")

// askToLeave makes g draining, and tells its process or its connection, once. It
// returns false where that has ended, or cannot be told.
func (r *registry) askToLeave(g *grant) bool {
	switch {
	case g.ended:
		return false
	case g.draining:
		return true
	case g.pidfd != nil && exited(g.pidfd):
		r.end(g, endExited)
		return false
	case g.more:
		g.event = protocol.EventDrain
		if g.link != nil {
			g.link.wake()
		}
	case g.pidfd != nil && g.signal != 0:
		switch err := sendSignal(g); {
		case errors.Is(err, unix.ESRCH):
			r.end(g, endExited)
			return false
		case err != nil:
			r.note(event{what: eventUnasked, grant: g, names: g.names(), err: err})
			return false
		}
	}
	g.draining = true
	r.saveGrant(g)
	r.noteGrant(protocol.EventDraining, g, "", g.names)
	return true
}

// sendSignal sends the process of g its drain signal. As that goes by its pidfd, it
// cannot reach another one that got its pid since. The process has chosen the signal,
// and may have executed a set-user-ID program since: what its user could not send is
// not sent for it either.
func sendSignal(g *grant) error {
	err := mayKill(g.peer.uid, g.peer.pid)
	if err != nil && !exited(g.pidfd) {
		return err
	}
	if cerr := g.pidfd.Control(func(fd uintptr) {
		err = unix.PidfdSendSignal(int(fd), g.signal, nil, 0)
	}); cerr != nil {
		return cerr
	}
	return os.NewSyscallError("pidfd_send_signal", err)
}

// mayKill returns nil where a user may send signals to a process: by kill(2) its real or
// its saved user id has to be theirs.
func mayKill(uid uint32, pid int) error {
	if uid == 0 {
		return nil
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return err
	}
	_, line, _ := bytes.Cut(b, []byte("\nUid:"))
	line, _, _ = bytes.Cut(line, []byte("\n"))
	var real, effective, saved uint32
	if _, err := fmt.Sscan(string(line), &real, &effective, &saved); err != nil {
		return err
	}
	if uid != real && uid != saved {
		return errNotTheirs
	}
	return nil
}

// signalNamed returns the signal of that name, which has no "SIG" in front.
func signalNamed(name string) (unix.Signal, error) {
	if name == "" {
		return 0, nil
	}
	if n := unix.SignalNum("SIG" + name); n != 0 && name == strings.ToUpper(name) {
		return n, nil
	}
	return 0, &protocol.InvalidParameterError{Parameter: "drainSignal"}
}
