package holders

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fdbroker/fdbroker/internal/procfs"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// searchTime bounds a search of the machine's processes: a hundred of them take 1 to 13 ms (docs/kernel.md, What a
// holder costs).
const searchTime = 3 * time.Second

// A Sighting is a descriptor of a process.
type Sighting struct{ PID, FD int }

// Sightings finds the descriptors of the sockets with these inodes in all processes, and returns them by inode. It
// takes at most three seconds.
func Sightings(inodes []uint32) map[uint32][]Sighting {
	found, _ := search(inodes)
	return found
}

// search also reports whether it had no time for all processes.
func search(inodes []uint32) (found map[uint32][]Sighting, late bool) {
	found = make(map[uint32][]Sighting, len(inodes))
	for _, inode := range inodes {
		found[inode] = nil
	}
	if len(found) == 0 {
		return found, false
	}
	deadline := time.Now().Add(searchTime)
	eachEntry("/proc", func(name string) bool {
		pid, err := strconv.Atoi(name)
		if err == nil {
			eachSocket(pid, deadline, func(number int, inode uint32) {
				if seen, wanted := found[inode]; wanted {
					found[inode] = append(seen, Sighting{pid, number})
				}
			})
		}
		return !time.Now().After(deadline)
	})
	return found, time.Now().After(deadline)
}

// Take returns a duplicate of the descriptor; the caller must close it. It takes the right to trace the process: see
// ptrace(2).
func (at Sighting) Take() (*scmrights.FD, error) {
	pidfd, err := unix.PidfdOpen(at.PID, 0)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(pidfd)
	n, err := unix.PidfdGetfd(pidfd, at.FD, 0) // close-on-exec from birth
	if err != nil {
		return nil, os.NewSyscallError("pidfd_getfd", err)
	}
	return scmrights.NewFD(n), nil
}

// Topmost returns the processes of seen that have no parent in it: a child that got the socket from its parent leaves
// with it.
func Topmost(seen []Sighting) []Process {
	var all []Process
	for _, at := range seen {
		parent := procfs.Parent(at.PID)
		if !slices.ContainsFunc(seen, func(o Sighting) bool { return o.PID == parent }) &&
			!slices.ContainsFunc(all, func(p Process) bool { return p.PID == at.PID }) {
			all = append(all, Process{at.PID, procfs.Name(at.PID)})
		}
	}
	return all
}

// Holds reports whether a process can be seen to have the socket with that inode open. It takes longer the more
// descriptors the process has.
func Holds(pid int, inode uint32) (held bool) {
	eachSocket(pid, time.Now().Add(searchTime), func(_ int, is uint32) { held = held || is == inode })
	return held
}

// eachSocket calls use with the number and the inode of each of pid's descriptors that is a socket. Those of processes
// that this one may not trace cannot be read (proc(5)).
func eachSocket(pid int, deadline time.Time, use func(number int, inode uint32)) {
	eachLink(pid, func(number int, link string) bool {
		inode, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(link, "socket:["), "]"), 10, 32)
		if err == nil {
			use(number, uint32(inode))
		}
		return !time.Now().After(deadline)
	})
}

// eachLink calls use with the number and the link of each of pid's descriptors, until it returns false.
func eachLink(pid int, use func(number int, link string) bool) {
	path := "/proc/" + strconv.Itoa(pid) + "/fd"
	eachEntry(path, func(name string) bool {
		number, nerr := strconv.Atoi(name)
		link, err := os.Readlink(path + "/" + name)
		return nerr != nil || err != nil || use(number, link)
	})
}

// eachEntry calls use with the names in a directory until it returns false.
func eachEntry(path string, use func(name string) bool) {
	dir, err := os.Open(path)
	if err != nil {
		return
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(1024)
		for _, name := range names {
			if !use(name) {
				return
			}
		}
		if err != nil { // the end, io.EOF, or a directory that cannot be read on
			return
		}
	}
}

// BrokerMark is the name of a memfd (memfd_create(2)) that a broker and its keeper have open. It marks them for other
// brokers, if root or their own user has made it.
const BrokerMark = "fdbroker-state"

// endTime is how long a broker that was killed a moment ago may take to exit.
const endTime = 500 * time.Millisecond

// IsBroker reports whether a process is a broker or a keeper, and runs on.
func IsBroker(pid int) bool {
	if !hasMark(pid) {
		return false
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(pidfd)
	p := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}} // when it has exited
	for deadline := time.Now().Add(endTime); ; {
		n, err := unix.Poll(p, int(max(time.Until(deadline), 0).Milliseconds()))
		if err != unix.EINTR {
			return n == 0
		}
	}
}

// hasMark reports whether a process has a mark that root or this user has made. With a mark of its own, a holder of
// another user could keep the next broker from starting.
func hasMark(pid int) (marked bool) {
	eachLink(pid, func(number int, link string) bool {
		marked = strings.HasPrefix(link, "/memfd:"+BrokerMark+" ") && isTrusted(fmt.Sprintf("/proc/%d/fd/%d", pid, number))
		return !marked
	})
	return marked
}

// isTrusted reports whether the file at path belongs to root or this user. Giving a file to another user takes
// privilege. The owner of the process would say less: it may have started a program that is set-user-ID.
func isTrusted(path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && (st.Uid == 0 || st.Uid == uint32(os.Geteuid()))
}
