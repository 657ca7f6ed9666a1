//go:build linux

package socket

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/internal/procfs"
	"github.com/fdbroker/fdbroker/scmrights"
)

// Recovered is what became of the socket of a spec that others hold.
type Recovered struct {
	// Socket is nil where it was not taken back. The caller must close it.
	Socket *Socket
	// Holders are the processes that had it open, without those that have it from a
	// parent which is among them.
	Holders []Process
	// Why it was not taken back; empty where it is a stranger's.
	Why string
	// Offer reports that a holder could still give it back: it may be ours, and this
	// process may not take it by itself.
	Offer bool
}

// Recover looks for the sockets that a broker of this user had opened by these specs,
// and takes them back from the processes that hold them still. It takes a duplicate
// (pidfd_getfd(2)), which nobody notices, and needs the right to trace such a process
// (ptrace(2)): the same user has it unless Yama takes it away, root as a rule. It
// looks at every process once; with many that takes a while, at most three seconds.
//
// An address at which there is more than one socket is left alone, and so is a
// stranger's socket, and one that another broker has.
func Recover(specs []Spec) []Recovered {
	results := make([]Recovered, len(specs))
	wanted := make(map[string]*lost)
	for i, s := range specs {
		d, why := occupant(s)
		switch {
		case why != "":
			results[i].Why = why
		case d.inode != 0 && d.uid == uint32(os.Geteuid()):
			wanted[socketLink(d.inode)] = &lost{spec: s, diag: d, result: &results[i]}
		}
	}
	if len(wanted) > 0 {
		deadline := time.Now().Add(searchTime)
		for pid := range processes(deadline) {
			eachSocket(pid, deadline, func(number int, link string) {
				if l := wanted[link]; l != nil {
					l.seen = append(l.seen, sighting{pid, number})
				}
			})
		}
	}
	known := make(map[int]bool)
	for _, l := range wanted {
		l.takeBack(func(pid int) bool {
			is, ok := known[pid]
			if !ok {
				is = isBroker(pid)
				known[pid] = is
			}
			return is
		})
	}
	return results
}

// lost is a socket that has the address of a spec.
type lost struct {
	spec   Spec
	diag   diagSocket
	seen   []sighting
	result *Recovered
}

// sighting is a descriptor of a process.
type sighting struct{ pid, number int }

// occupant returns the one socket that has the address of s; where there is more than
// one, or something else is wrong, it says why there is none.
func occupant(s Spec) (d diagSocket, why string) {
	n := networkOf(s.Network)
	var there []diagSocket
	switch {
	case n == nil:
		return d, fmt.Sprintf("there is no network %q", s.Network)
	case n.in(inetNets):
		ends, err := endpoints(n, s)
		if err != nil {
			return d, reason(err)
		}
		for _, end := range ends {
			if there = socketsAt(n, s, end); len(there) > 0 {
				break
			}
		}
	default:
		file, _, _ := findFile(s.Address) // nil for an abstract one
		byFile, byName := unixSockets(s.Address, file)
		if there = byFile; strings.HasPrefix(s.Address, "@") {
			there = byName
		}
		there = slices.DeleteFunc(there, func(d diagSocket) bool { return int(d.sotype) != n.sotype })
	}
	switch len(there) {
	case 0:
		return d, ""
	case 1:
		return there[0], ""
	}
	return d, fmt.Sprintf("%d sockets share the address, and none of them is taken back: stop their processes", len(there))
}

// takeBack takes the socket from the first process that lets it. Where another broker
// has it, it is not lost.
func (l *lost) takeBack(isBroker func(pid int) bool) {
	for _, at := range l.seen {
		if isBroker(at.pid) {
			l.result.Why = fmt.Sprintf("pid %d (%s) is a broker that runs, and has it", at.pid, procfs.Name(at.pid))
			return
		}
	}
	l.result.Why, l.result.Offer = "its process cannot be seen from here", true
	for _, at := range l.seen {
		fd, err := take(at)
		if err != nil {
			l.result.Why = fmt.Sprintf("it cannot be taken from pid %d (%s): %v; that needs its user's or root's right to trace it", at.pid, procfs.Name(at.pid), reason(err))
			continue
		}
		sock, err := retake(l.spec, fd, l.diag.cookie)
		if err != nil {
			_ = fd.Close()
			if l.result.Why, l.result.Offer = reason(err), false; errors.Is(err, errForeign) {
				l.result.Why = ""
			}
			continue
		}
		*l.result = Recovered{Socket: sock, Holders: topmost(l.seen)}
		return
	}
}

// take returns a duplicate of another process's descriptor.
func take(at sighting) (*scmrights.FD, error) {
	pidfd, err := unix.PidfdOpen(at.pid, 0)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(pidfd)
	n, err := unix.PidfdGetfd(pidfd, at.number, 0) // close-on-exec by itself
	if err != nil {
		return nil, os.NewSyscallError("pidfd_getfd", err)
	}
	return scmrights.NewFD(n), nil
}

// topmost returns the processes of seen that have no parent among them: children that
// got the socket from such a one go with it.
func topmost(seen []sighting) []Process {
	var all []Process
	for _, at := range seen {
		child := slices.ContainsFunc(seen, func(o sighting) bool { return o.pid == procfs.Parent(at.pid) })
		known := slices.ContainsFunc(all, func(p Process) bool { return p.PID == at.pid })
		if !child && !known {
			all = append(all, Process{at.pid, procfs.Name(at.pid)})
		}
	}
	return all
}
