package notify

import (
	"os"
	"time"

	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// probeName is the name of the descriptor by which [Stores] tries the store.
const probeName = "@probe"

// Stores reports whether the manager at address, a value of NOTIFY_SOCKET, keeps descriptors for this process, as far as
// it shows within limit. Stores tries that, because systemd before version 254 does not say it ($FDSTORE): it gives the
// manager one end of a pipe, and looks whether that is still open once the manager has read the message. The manager
// closes the end of a second pipe, which comes next, in any case (sd_notify_barrier(3)).
func Stores(address string, limit time.Duration) bool {
	m, _ := at(address)
	return m.Stores(limit)
}

// Stores is the function [Stores] for m.
func (m *Manager) Stores(limit time.Duration) bool {
	if m == nil || m.address == "" {
		return false
	}
	kept, err := give(m.address, "FDSTORE=1\nFDNAME="+probeName)
	if err != nil {
		return false
	}
	defer kept.Close() // which makes systemd close a stored other end by itself
	read, err := give(m.address, "BARRIER=1")
	if err != nil {
		return false
	}
	defer read.Close()
	if !hungUp(read, limit) || hungUp(kept, 0) {
		return false
	}
	return m.Forget(probeName) == nil
}

// give sends text with one end of a new pipe. The caller must close the other end, which it returns.
func give(address, text string) (*scmrights.FD, error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	ours, theirs := scmrights.NewFD(ends[0]), scmrights.NewFD(ends[1])
	defer theirs.Close()
	if err := sendTo(address, []byte(text), []*scmrights.FD{theirs}); err != nil {
		_ = ours.Close()
		return nil, err
	}
	return ours, nil
}

// hungUp waits until the other end of a pipe is closed everywhere, and reports whether that was in time.
func hungUp(end *scmrights.FD, limit time.Duration) (closed bool) {
	_ = end.Control(func(fd uintptr) {
		polled := []unix.PollFd{{Fd: int32(fd)}}
		for until := time.Now().Add(limit); ; {
			n, err := unix.Poll(polled, int(max(time.Until(until), 0).Milliseconds()))
			if err != unix.EINTR {
				closed = n == 1
				return
			}
		}
	})
	return closed
}
