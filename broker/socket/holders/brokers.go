//go:build linux

package holders

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

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
