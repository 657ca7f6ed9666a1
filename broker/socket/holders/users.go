package holders

import (
	"os"
	"slices"
	"time"

	"github.com/fdbroker/fdbroker/internal/procfs"
)

// Users returns the processes that can be seen to have the sockets with these inodes open, by inode, at most five of
// each. It leaves out those that keep sockets for this broker or for another one: brokers, keepers, and the processes
// that have started this one, such as a service manager. It looks through all processes for that time at most.
func Users(inodes []uint32, limit time.Duration) map[uint32][]Process {
	seen, _ := search(inodes, limit)
	keeps := make(map[int]bool) // whether a process is left out
	for pid := os.Getpid(); pid > 0; pid = procfs.Parent(pid) {
		keeps[pid] = true
	}
	users := make(map[uint32][]Process)
	for inode, all := range seen {
		all = slices.DeleteFunc(all, func(at Sighting) bool {
			keep, known := keeps[at.PID]
			if !known {
				keep = hasMark(at.PID)
				keeps[at.PID] = keep
			}
			return keep
		})
		if top := Topmost(all); len(top) > 0 {
			users[inode] = top[:min(len(top), maxNamed)]
		}
	}
	return users
}
