package socket

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/fdbroker/fdbroker/broker/socket/holders"
	"github.com/fdbroker/fdbroker/broker/socket/sockdiag"
	"github.com/fdbroker/fdbroker/broker/socket/sockfile"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/procfs"
)

// Recovered is the result of [Recover] for one spec.
type Recovered struct {
	Socket  *Socket           // nil if it was not recovered; the caller must close it, or Abort
	Holders []holders.Process // had it open; without those that have it from a parent which is among them
	Why     string            // it was not recovered; empty if it is another program's
	// MayHandBack reports that a holder could still hand it back: it may be ours, and this process may not take it.
	MayHandBack bool
}

// Recover looks for the sockets that a broker of this user has opened by these specs, and takes them from the processes
// that still hold them. It takes a duplicate (pidfd_getfd(2)), which those do not notice, and needs the right to trace
// such a process (ptrace(2)): the same user has it unless Yama denies it, and usually root. It looks at every process
// once, for at most three seconds.
//
// It leaves alone an address at which there is more than one socket, another program's socket, and a socket that
// another broker has.
func Recover(specs []spec.Spec) []Recovered {
	results := make([]Recovered, len(specs))
	wanted := make(map[uint32]int) // which spec, by the inode of its socket
	var inodes []uint32
	sockets := make([]sockdiag.Socket, len(specs))
	for i, s := range specs {
		d, why := occupant(s)
		switch {
		case why != "":
			results[i].Why = why
		case d.Inode != 0 && d.UID == uint32(os.Geteuid()):
			sockets[i], wanted[d.Inode] = d, i
			inodes = append(inodes, d.Inode)
		}
	}
	brokers := make(map[int]bool)
	isBroker := func(pid int) bool {
		is, known := brokers[pid]
		if !known {
			is = holders.IsBroker(pid)
			brokers[pid] = is
		}
		return is
	}
	seen, _ := holders.Sightings(inodes)
	for inode, i := range wanted {
		results[i] = recoverFrom(specs[i], sockets[i].Cookie, seen[inode], isBroker)
	}
	return results
}

// occupant returns the one socket that has the address of s. If there are several, or something else is wrong, it says
// why there is none.
func occupant(s spec.Spec) (d sockdiag.Socket, why string) {
	n := spec.NetworkOf(s.Network)
	var there []sockdiag.Socket
	switch {
	case n == nil:
		return d, fmt.Sprintf("there is no network %q", s.Network)
	case n.In(spec.Inet):
		ends, err := s.Endpoints()
		if err != nil {
			return d, spec.Reason(err)
		}
		for _, end := range ends {
			if there = sockdiag.Receivers(s, end); len(there) > 0 {
				break
			}
		}
	default:
		byFile, byName := sockdiag.Unix(s.Address, sockfile.IDOf(s.Address))
		if there = byFile; strings.HasPrefix(s.Address, "@") {
			there = byName
		}
		there = slices.DeleteFunc(there, func(d sockdiag.Socket) bool { return int(d.Type) != n.Type })
	}
	switch len(there) {
	case 0:
		return d, ""
	case 1:
		return there[0], ""
	}
	return d, fmt.Sprintf("%d sockets share the address, and none of them is taken back: stop their processes", len(there))
}

// recoverFrom takes the socket of s with that cookie from the first process that lets it, unless a broker has it.
func recoverFrom(s spec.Spec, cookie uint64, seen []holders.Sighting, isBroker func(pid int) bool) Recovered {
	for _, at := range seen {
		if isBroker(at.PID) {
			return Recovered{Why: fmt.Sprintf("pid %d (%s) is a broker that runs, and has it", at.PID, procfs.Name(at.PID))}
		}
	}
	r := Recovered{Why: "its process cannot be seen from here", MayHandBack: true}
	for _, at := range seen {
		fd, err := at.Take()
		if err != nil {
			r.Why = fmt.Sprintf("it cannot be taken from pid %d (%s): %v; that needs its user's or root's right to trace it",
				at.PID, procfs.Name(at.PID), spec.Reason(err))
			continue
		}
		sock, err := reclaim(s, fd, cookie)
		if err == nil {
			return Recovered{Socket: sock, Holders: holders.Topmost(seen)}
		}
		_ = fd.Close()
		r.Why, r.MayHandBack = spec.Reason(err), false
		if errors.Is(err, errForeign) {
			r.Why = ""
		}
	}
	return r
}
