package holders

import (
	"fmt"
	"iter"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fdbroker/fdbroker/internal/kernel"
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
// takes at most three seconds; late says that it had no time for all processes.
func Sightings(inodes []uint32) (found map[uint32][]Sighting, late bool) {
	return search(inodes, searchTime)
}

// search is Sightings with another limit.
func search(inodes []uint32, limit time.Duration) (found map[uint32][]Sighting, late bool) {
	found = make(map[uint32][]Sighting, len(inodes))
	for _, inode := range inodes {
		found[inode] = nil
	}
	if len(found) == 0 {
		return found, false
	}
	deadline := time.Now().Add(limit)
	all, _ := os.ReadDir("/proc")
	for _, entry := range all {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		for number, inode := range sockets(pid, deadline) {
			if seen, wanted := found[inode]; wanted {
				found[inode] = append(seen, Sighting{pid, number})
			}
		}
		if time.Now().After(deadline) {
			return found, true
		}
	}
	return found, false
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
func Holds(pid int, inode uint32) bool {
	for _, is := range sockets(pid, time.Now().Add(searchTime)) {
		if is == inode {
			return true
		}
	}
	return false
}

// unseen says, in words, why no process was found that has a socket.
func unseen() string {
	switch is := kernel.Read(); {
	case !is.Proc:
		return "there is no /proc, in which its process could be seen"
	case is.Hides && !is.MayTrace:
		return "the broker cannot inspect its process: /proc is mounted with hidepid"
	case !is.MayTrace:
		return "the broker cannot inspect its process: it is another user's (which needs CAP_SYS_PTRACE) or in another pid namespace"
	}
	return "the broker cannot inspect its process: it is in another pid namespace"
}

// sockets yields the number and the inode of each of pid's descriptors that is a socket, until the deadline. Those of
// processes that this one may not trace cannot be read (proc(5)).
func sockets(pid int, deadline time.Time) iter.Seq2[int, uint32] {
	return func(yield func(int, uint32) bool) {
		for number, link := range links(pid) {
			inode, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(link, "socket:["), "]"), 10, 32)
			if err == nil && !yield(number, uint32(inode)) || time.Now().After(deadline) {
				return
			}
		}
	}
}

// links yields the number and the link of each of pid's descriptors, of which there may be millions.
func links(pid int) iter.Seq2[int, string] {
	return func(yield func(int, string) bool) {
		path := fmt.Sprintf("/proc/%d/fd/", pid)
		dir, err := os.Open(path)
		if err != nil {
			return
		}
		defer dir.Close()
		for err == nil { // until the end, io.EOF, or a directory that cannot be read on
			var names []string
			names, err = dir.Readdirnames(1024)
			for _, name := range names {
				number, nerr := strconv.Atoi(name)
				link, lerr := os.Readlink(path + name)
				if nerr == nil && lerr == nil && !yield(number, link) {
					return
				}
			}
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

// hasMark reports whether a process has a mark that root or this user has made: giving a file to another user takes
// privilege. With a mark of its own, a holder of another user could keep the next broker from starting. The owner of
// the process would say less: it may have started a program that is set-user-ID.
func hasMark(pid int) bool {
	for number, link := range links(pid) {
		if !strings.HasPrefix(link, "/memfd:"+BrokerMark+" ") {
			continue
		}
		var st unix.Stat_t
		err := unix.Stat(fmt.Sprintf("/proc/%d/fd/%d", pid, number), &st)
		if err == nil && (st.Uid == 0 || st.Uid == uint32(os.Geteuid())) {
			return true
		}
	}
	return false
}
