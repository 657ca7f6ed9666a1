//go:build linux

package socket

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fdbroker/fdbroker/internal/procfs"
)

const (
	// maxHolders is the most processes that are named as holders of an address.
	maxHolders = 5
	// searchTime bounds how long the processes of the machine are searched:
	// a hundred of them take 1 to 13 ms (KERNEL §8).
	searchTime = 3 * time.Second
)

// Process is a process that has an address in use.
type Process struct {
	PID     int
	Command string // its name as ps -o comm shows it
}

// holders is what could be found out about who has an address.
type holders struct {
	found bool // a socket was found that has it
	self  bool // this process has it
	uid   uint32
	seen  []Process
	more  bool // there are more than seen
	late  bool // not all processes could be searched in time
}

const inUseText = "address already in use"

// taken says why an address that is not bound yet cannot be.
func (h holders) taken() string {
	if h.self {
		return inUseText + " by this broker itself, under another name"
	}
	return h.inUse()
}

// inUse says that an address is in use, and by whom.
func (h holders) inUse() string {
	switch {
	case !h.found:
		return inUseText + " (by whom cannot be seen from here)"
	case len(h.seen) == 0 && h.late:
		return fmt.Sprintf("%s by a socket of uid %d (whose process was not found in %v)", inUseText, h.uid, searchTime)
	case len(h.seen) == 0:
		return fmt.Sprintf("%s by a socket of uid %d (its process cannot be seen from here: another user's, or in another pid namespace)", inUseText, h.uid)
	}
	pids := make([]string, len(h.seen))
	for i, p := range h.seen {
		pids[i] = fmt.Sprintf("%d (%s)", p.PID, p.Command)
	}
	word, end := "pid", ""
	if len(pids) > 1 {
		word = "pids"
	}
	if h.more {
		end = " and others"
	}
	return inUseText + " by " + word + " " + strings.Join(pids, ", ") + end
}

// holdersOf returns who holds any of the sockets found by sock_diag.
func holdersOf(socks []diagSocket) holders {
	if len(socks) == 0 {
		return holders{}
	}
	links := make(map[string]bool, len(socks))
	for _, d := range socks {
		links[socketLink(d.inode)] = true
	}
	deadline := time.Now().Add(searchTime)
	h := holders{found: true, uid: socks[0].uid, self: holdsAny(os.Getpid(), links, deadline)}
	for pid := range processes(deadline) {
		if !holdsAny(pid, links, deadline) {
			continue
		}
		if len(h.seen) == maxHolders {
			h.more = true
			break
		}
		h.seen = append(h.seen, Process{pid, procfs.Name(pid)})
	}
	h.late = time.Now().After(deadline)
	slices.SortFunc(h.seen, func(a, b Process) int { return cmp.Compare(a.PID, b.PID) })
	return h
}

// HeldBy reports whether a process can be seen to have the socket open. It may take
// as long as that process has descriptors.
func (s *Socket) HeldBy(pid int) bool {
	return s.inode != 0 && holdsAny(pid, map[string]bool{socketLink(s.inode): true}, time.Now().Add(searchTime))
}

// processes yields the pids that /proc shows until the deadline.
func processes(deadline time.Time) func(yield func(int) bool) {
	return func(yield func(int) bool) {
		proc, err := os.Open("/proc")
		if err != nil {
			return
		}
		defer proc.Close()
		for {
			names, err := proc.Readdirnames(256)
			for _, name := range names {
				pid, nerr := strconv.Atoi(name)
				if nerr != nil {
					continue
				}
				if time.Now().After(deadline) || !yield(pid) {
					return
				}
			}
			if err != nil { // the end, io.EOF, or no use in going on
				return
			}
		}
	}
}

// holdsAny reports whether one of pid's descriptors is one of links.
func holdsAny(pid int, links map[string]bool, deadline time.Time) (held bool) {
	eachSocket(pid, deadline, func(_ int, link string) { held = held || links[link] })
	return held
}

// socketLink returns what the link in /proc/PID/fd of a socket says.
func socketLink(inode uint32) string { return fmt.Sprintf("socket:[%d]", inode) }

// eachSocket calls use with the number and the link of each of pid's descriptors that
// is a socket. Those of processes that this one may not trace cannot be read (proc(5)).
func eachSocket(pid int, deadline time.Time, use func(number int, link string)) {
	path := "/proc/" + strconv.Itoa(pid) + "/fd"
	dir, err := os.Open(path)
	if err != nil {
		return
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(1024)
		for _, name := range names {
			number, nerr := strconv.Atoi(name)
			link, lerr := os.Readlink(path + "/" + name)
			if nerr == nil && lerr == nil && strings.HasPrefix(link, "socket:") {
				use(number, link)
			}
		}
		if err != nil || time.Now().After(deadline) { // io.EOF, or no use in going on
			return
		}
	}
}
