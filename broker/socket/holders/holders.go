// Package holders finds the processes that hold sockets, and takes duplicates of their descriptors.
//
// It reads /proc and asks sock_diag, and may trace a process to duplicate a descriptor (pidfd_getfd(2)), which that
// process does not notice. It never changes a socket, and never signals a process. All it says may be out of date when
// it is said.
package holders

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/fdbroker/fdbroker/broker/socket/sockdiag"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/procfs"
	"golang.org/x/sys/unix"
)

// maxNamed limits the processes that are named as holders of an address.
const maxNamed = 5

// Process is a process that has an address in use.
type Process struct {
	PID     int
	Command string // its name as ps -o comm shows it
}

// A Report is the result of a search for the holders of an address.
type Report struct {
	text string
	self bool // this process has it
	seen []Process
}

// An InUseError says that an address is in use, and by which processes, at most five. It is an EADDRINUSE.
type InUseError struct {
	*spec.Problem
	Processes []Process
}

func (e *InUseError) Unwrap() error { return e.Problem }

// Err returns r as the reason why an address that is not bound yet cannot be.
func (r Report) Err() error {
	text := r.text
	if r.self {
		text = "address already in use by this broker itself, under another name"
	}
	return &InUseError{&spec.Problem{Text: text, Err: unix.EADDRINUSE}, r.seen}
}

// String says that an address is in use, and by which processes.
func (r Report) String() string { return r.text }

// OfInet returns the holders of an address that keeps a socket of s from being bound to end. It may take seconds.
func OfInet(s spec.Spec, end spec.Endpoint) Report { return of(sockdiag.Conflicts(s, end)) }

// OfUnix returns the holders of a Unix address, abstract or a path that leads to file. It may take seconds.
func OfUnix(address string, file sockdiag.FileID) Report {
	byFile, byName := sockdiag.Unix(address, file)
	if len(byFile) > 0 {
		return of(byFile) // an older socket may have had the same name
	}
	return of(byName)
}

func of(socks []sockdiag.Socket) (r Report) {
	const inUse = "address already in use"
	if len(socks) == 0 {
		return Report{text: inUse + " (by whom cannot be seen from here)"}
	}
	inodes := make([]uint32, len(socks))
	for i, d := range socks {
		inodes[i] = d.Inode
	}
	sightings, late := Sightings(inodes)
	var pids []int
	for _, seen := range sightings {
		for _, at := range seen {
			pids = append(pids, at.PID)
		}
	}
	slices.Sort(pids)
	pids = slices.Compact(pids)
	r.self = slices.Contains(pids, os.Getpid())
	var texts []string
	for _, pid := range pids[:min(len(pids), maxNamed)] {
		p := Process{pid, procfs.Name(pid)}
		r.seen, texts = append(r.seen, p), append(texts, fmt.Sprintf("%d (%s)", p.PID, p.Command))
	}
	switch r.text = inUse + " by pids " + strings.Join(texts, ", "); {
	case len(pids) == 0 && late:
		r.text = fmt.Sprintf("%s by a socket of uid %d (whose process was not found in %v)", inUse, socks[0].UID, searchTime)
	case len(pids) == 0:
		r.text = fmt.Sprintf("%s by a socket of uid %d (its process cannot be seen from here: another user's, "+
			"or in another pid namespace)", inUse, socks[0].UID)
	case len(pids) == 1:
		r.text = inUse + " by pid " + texts[0]
	case len(pids) > maxNamed:
		r.text += " and others"
	}
	return r
}
