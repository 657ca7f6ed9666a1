//go:build linux

package socket

import (
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// BrokerMark is the name of a memfd (memfd_create(2)) that a broker has open, and its
// keeper, by which others know that it is one, if root or their own user has made it.
const BrokerMark = "fdbroker-state"

// endTime is how long a broker that was killed a moment ago may take to be gone.
const endTime = 500 * time.Millisecond

// isBroker reports whether a process is a broker or a keeper, which goes on.
func isBroker(pid int) bool {
	if !hasMark(pid) {
		return false
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(pidfd)
	p := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}} // when it has ended
	for deadline := time.Now().Add(endTime); ; {
		n, err := unix.Poll(p, int(max(time.Until(deadline), 0).Milliseconds()))
		if err != unix.EINTR {
			return n == 0
		}
	}
}

// hasMark reports whether a process has a mark that root has made, or this user: a
// holder of another user could keep the next broker from starting by a mark of its own.
func hasMark(pid int) bool {
	path := "/proc/" + strconv.Itoa(pid) + "/fd"
	dir, err := os.Open(path)
	if err != nil {
		return false
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(1024)
		for _, name := range names {
			if link, _ := os.Readlink(path + "/" + name); strings.HasPrefix(link, "/memfd:"+BrokerMark+" ") && isTrusted(path+"/"+name) {
				return true
			}
		}
		if err != nil { // io.EOF, or no use in going on
			return false
		}
	}
}

// isTrusted reports whether the file at path is root's or this user's. To give a file
// to another user takes privilege, and whose a process is would say less: it may have
// started a program that is set-user-ID.
func isTrusted(path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && (st.Uid == 0 || st.Uid == uint32(os.Geteuid()))
}
