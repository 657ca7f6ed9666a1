package peer

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/fdbroker/fdbroker/internal/procfs"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// ErrExited is the error for a process that has ended.
var ErrExited = errors.New("the process has ended")

// Process is a process by its pidfd, which refers to it also after its pid is reused.
type Process struct {
	FD *scmrights.FD
	ID ID
}

// ID tells a process from all others for as long as one of its pidfds is open: by the
// inode of the pidfd, which the kernel never reuses (pidfs, Linux 6.9), otherwise by its
// pid and its start. The zero value stands for an unknown process.
type ID struct {
	Inode uint64
	PID   int
	Start uint64 // in clock ticks since boot
}

// hasPidfs reports whether each pidfd has an inode of its own (Linux 6.9).
var hasPidfs = sync.OnceValue(func() bool {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var st unix.Statfs_t
	return unix.Fstatfs(fd, &st) == nil && st.Type == unix.PID_FS_MAGIC
})

// OfConn returns the process that made a connection, of which cred are the credentials; the
// caller must close its FD. The error is [ErrExited] if the process has ended.
func OfConn(c Conn, cred Credentials) (Process, error) {
	n, err := -1, error(nil)
	if cerr := c.Control(func(fd uintptr) { n, err = pidfdOf(int(fd), cred.PID) }); cerr != nil {
		return Process{}, cerr
	}
	if err != nil {
		return Process{}, err
	}
	return processOf(n, cred.PID)
}

// pidfdOf returns a pidfd of the process that connected the socket fd. Since Linux 6.16
// the kernel returns one also if the process has ended.
func pidfdOf(fd, pid int) (int, error) {
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD) // Linux 6.5
	switch err {
	case unix.ENOPROTOOPT:
		// Another process may have the pid by now. Kernels before 6.5 cannot say more than
		// that the process was alive when it connected, a moment ago.
		return openPidfd(pid)
	case unix.ESRCH, unix.EINVAL: // EINVAL until Linux 6.15
		return -1, ErrExited
	}
	return n, os.NewSyscallError("pidfd", err)
}

func openPidfd(pid int) (int, error) {
	n, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return -1, ErrExited
	}
	return n, os.NewSyscallError("pidfd_open", err)
}

// processOf takes a pidfd and returns its process, if that has not ended.
func processOf(n, pid int) (Process, error) {
	p := Process{scmrights.NewFD(n), ID{PID: pid}}
	var st unix.Stat_t
	if err := unix.Fstat(n, &st); err == nil && hasPidfs() {
		p.ID = ID{Inode: st.Ino}
	} else {
		p.ID.Start = procfs.StartTime(pid)
	}
	if Exited(p.FD) {
		_ = p.FD.Close()
		return Process{}, ErrExited
	}
	return p, nil
}

// WithPID returns the process with that pid, and its credentials; the caller must close
// its FD. The error is [ErrExited] if there is no such process.
func WithPID(pid int) (Process, Credentials, error) {
	n, err := openPidfd(pid)
	if err != nil {
		return Process{}, Credentials{}, err
	}
	path := fmt.Sprintf("/proc/%d", pid)
	var st unix.Stat_t
	serr := unix.Stat(path, &st)
	p, err := processOf(n, pid) // after Stat, so that both are of the same process
	if err == nil && serr != nil {
		_ = p.FD.Close()
		err = &os.PathError{Op: "stat", Path: path, Err: serr}
	}
	if err != nil {
		return Process{}, Credentials{}, err
	}
	return p, Credentials{pid, st.Uid, st.Gid}, nil
}

// Exited reports whether the process of a pidfd, which it borrows, has ended: then the
// pidfd is readable (pidfd_open(2)). It is true of a closed pidfd.
func Exited(pidfd *scmrights.FD) bool { return ready(pidfd, unix.POLLIN) }

// HungUp reports whether the other end of a connection is closed.
func HungUp(c Conn) bool { return ready(c, unix.POLLRDHUP|unix.POLLHUP) }

// ready reports whether one of events holds for a descriptor now, or that is closed.
func ready(c Conn, events int16) bool {
	is := true
	_ = c.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: events}}
		n, err := unix.Poll(p, 0)
		for err == unix.EINTR {
			n, err = unix.Poll(p, 0)
		}
		is = err == nil && n > 0 && p[0].Revents&(events|unix.POLLERR|unix.POLLNVAL) != 0
	})
	return is
}
