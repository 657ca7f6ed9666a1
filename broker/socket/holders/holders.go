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
	"github.com/fdbroker/fdbroker/internal/kernel"
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

// An InUseError says that an address that is not bound yet is in use, and by which processes, at most five. It is an
// EADDRINUSE.
type InUseError struct {
	*spec.Problem
	Processes []Process
	Who       string // says the same of an address that this process should have
}

func (e *InUseError) Unwrap() error { return e.Problem }

// OfInet returns the holders of an address that keeps a socket of s from being bound to end, unless its inode is one of
// beside. It may take seconds.
func OfInet(s spec.Spec, end spec.Endpoint, beside ...uint32) *InUseError {
	all := sockdiag.Conflicts(s, end)
	others := slices.DeleteFunc(slices.Clone(all), func(d sockdiag.Socket) bool { return slices.Contains(beside, d.Inode) })
	if len(others) == 0 {
		others = all // it cannot share its port
	}
	e := of(spec.NetworkOf(s.Network), others)
	if len(others) > 0 && !slices.ContainsFunc(others, func(d sockdiag.Socket) bool { return !d.Retired }) {
		e.Text += "; it is the old socket of an earlier broker: stop who has it"
	}
	return e
}

// OfUnix returns the holders of a Unix address, abstract or a path that leads to file. It may take seconds.
func OfUnix(address string, file sockdiag.FileID) *InUseError {
	byFile, byName := sockdiag.Unix(address, file)
	if len(byFile) > 0 {
		byName = byFile // an older socket may have had the same name
	}
	return of(spec.NetworkOf("unix"), byName)
}

func of(n *spec.Network, socks []sockdiag.Socket) *InUseError {
	const inUse = "address already in use"
	if len(socks) == 0 {
		text := inUse + " (the process cannot be seen from here)"
		if why := kernel.Explain(sockdiag.Missing(n)); why != "" {
			text = inUse + " (the process cannot be seen: " + why + ")"
		}
		return &InUseError{spec.Problemf(unix.EADDRINUSE, "%s", text), nil, text}
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
	e := new(InUseError)
	var texts []string
	user := fmt.Sprintf("a socket of uid %d", socks[0].UID)
	if socks[0].NoUID {
		user = "a socket"
	}
	for _, pid := range pids[:min(len(pids), maxNamed)] {
		p := Process{pid, procfs.Name(pid)}
		e.Processes, texts = append(e.Processes, p), append(texts, fmt.Sprintf("%d (%s)", p.PID, p.Command))
	}
	switch e.Who = inUse + " by pids " + strings.Join(texts, ", "); {
	case len(pids) == 0 && late:
		e.Who = fmt.Sprintf("%s by %s (whose process was not found in %v)", inUse, user, searchTime)
	case len(pids) == 0:
		e.Who = fmt.Sprintf("%s by %s (%s)", inUse, user, unseen())
	case len(pids) == 1:
		e.Who = inUse + " by pid " + texts[0]
	case len(pids) > maxNamed:
		e.Who += " and others"
	}
	e.Problem = &spec.Problem{Text: e.Who, Err: unix.EADDRINUSE}
	if slices.Contains(pids, os.Getpid()) {
		e.Text = "already bound by this broker under another name"
	}
	return e
}
