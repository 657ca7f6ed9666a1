//go:build linux

package server

import (
	"errors"
	"os"
	"syscall"

	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// overflowID is what the kernel shows for a uid or gid that does not exist in
// this process's user namespace (user_namespaces(7)). It stands for anybody.
const overflowID = 65534

// peer is who connected: the credentials are those at the time of connect(2).
type peer struct {
	pid      int // 0 where it cannot be seen from this pid namespace
	uid, gid uint32
}

func peerOf(rc syscall.RawConn) (p peer, err error) {
	cerr := rc.Control(func(fd uintptr) {
		var u *unix.Ucred
		if u, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			p = peer{int(u.Pid), u.Uid, u.Gid}
		}
	})
	return p, errors.Join(cerr, os.NewSyscallError("getsockopt", err))
}

// groupsOf returns the peer's groups: its primary one, and the supplementary
// ones where the kernel tells (SO_PEERGROUPS, Linux 4.13).
func groupsOf(rc syscall.RawConn, primary uint32) []uint32 {
	groups := []uint32{primary}
	_ = rc.Control(func(fd uintptr) {
		if more, err := peerGroups(int(fd)); err == nil {
			groups = append(groups, more...)
		}
	})
	return groups
}

// process is the process behind a connection. A pidfd refers to it whatever
// becomes of its pid.
type process struct {
	pidfd *scmrights.FD
	id    processID
}

// processID tells processes apart for as long as one of their pidfds is open:
// by the inode of the pidfd, which is never used again (pidfs, Linux 6.9), or
// else by pid and start.
type processID struct {
	inode uint64
	pid   int
	start uint64
}

// processOf returns the process behind a connection. The caller must close its
// pidfd. Pidfs says whether pidfds have inodes of their own.
func processOf(rc syscall.RawConn, p peer, pidfs bool) (process, error) {
	n := -1
	var err error
	if cerr := rc.Control(func(fd uintptr) {
		n, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD) // Linux 6.5
	}); cerr != nil {
		return process{}, cerr
	}
	if err == unix.ENOPROTOOPT {
		// The process may be gone and its pid taken; that it was alive when it
		// connected, a moment ago, is the most an older kernel can say.
		n, err = unix.PidfdOpen(p.pid, 0)
	}
	if err != nil {
		return process{}, os.NewSyscallError("pidfd", err)
	}
	return process{scmrights.NewFD(n), idOfProcess(n, p.pid, pidfs)}, nil
}

// idOfProcess returns the identity of the process with that pid, behind a pidfd.
func idOfProcess(pidfd, pid int, pidfs bool) processID {
	var st unix.Stat_t
	if err := unix.Fstat(pidfd, &st); err == nil && pidfs {
		return processID{inode: st.Ino}
	}
	return processID{pid: pid, start: startTime(pid)}
}

// exited reports whether the process behind a pidfd has ended (pidfd_open(2): a
// pidfd is readable then).
func exited(pidfd *scmrights.FD) bool {
	gone := true
	_ = pidfd.Control(func(fd uintptr) { gone = ready(int(fd), unix.POLLIN) })
	return gone
}

// hungUp reports whether the peer of a connection has closed its end.
func hungUp(rc syscall.RawConn) bool {
	gone := true
	_ = rc.Control(func(fd uintptr) { gone = ready(int(fd), unix.POLLRDHUP|unix.POLLHUP) })
	return gone
}

// ready reports whether one of events holds for fd now.
func ready(fd int, events int16) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: events}}
	for {
		n, err := unix.Poll(p, 0)
		if err != unix.EINTR {
			return err == nil && n > 0 && p[0].Revents&(events|unix.POLLERR|unix.POLLNVAL) != 0
		}
	}
}
