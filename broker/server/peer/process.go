package peer

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/internal/epoll"
	"github.com/fdbroker/fdbroker/internal/kernel"
	"github.com/fdbroker/fdbroker/internal/procfs"
	"github.com/fdbroker/fdbroker/scmrights"
)

var (
	// ErrExited is the error for a process that has ended.
	ErrExited = errors.New("the process has exited")
	// ErrUnfollowed is the error if this process may not have a pidfd of another one: the kernel has none, or a seccomp
	// filter forbids it. It comes with that of the system call.
	ErrUnfollowed = errors.New("the process cannot be followed")
	// ErrNotAllowed refuses a signal to a process that its first user may not signal.
	ErrNotAllowed = errors.New("the process now belongs to another user")
)

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

// Continues reports whether id, which a broker has seen now, is that of the process that an earlier broker knew by was.
// With the inode that is certain. Without, and if /proc did not tell the earlier broker when the process had started
// (hidepid), the pid has to do.
func (id ID) Continues(was ID) bool {
	return id == was || was.Inode == 0 && id.Inode == 0 && was.Start == 0 && id.PID == was.PID
}

// OfConn returns the process that made a connection, of which cred are the credentials; the caller must close its FD.
// The error is [ErrExited] if the process has exited, and may be an [ErrUnfollowed]. Since Linux 6.16 the kernel gives a pidfd also then.
func OfConn(c Conn, cred Credentials) (Process, error) {
	n, err := -1, error(nil) // SO_PEERPIDFD: Linux 6.5
	cerr := c.Control(func(fd uintptr) { n, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD) })
	switch {
	case cerr != nil:
		return Process{}, cerr
	case err == nil:
	case err == unix.ENOPROTOOPT:
		// Another process may have the pid by now. Kernels before 6.5 cannot say more than
		// that the process was alive when it connected, a moment ago.
		n, err = openPidfd(cred.PID)
	case err == unix.ESRCH, err == unix.EINVAL: // EINVAL until Linux 6.15
		err = ErrExited
	default:
		err = os.NewSyscallError("pidfd", err)
	}
	if err != nil {
		return Process{}, err
	}
	return processOf(n, cred.PID)
}

func openPidfd(pid int) (int, error) {
	n, err := unix.PidfdOpen(pid, 0)
	switch err {
	case nil:
		return n, nil
	case unix.ESRCH:
		return -1, ErrExited
	case unix.ENOSYS, unix.EPERM:
		return -1, fmt.Errorf("%w: %w", ErrUnfollowed, os.NewSyscallError("pidfd_open", err))
	}
	return -1, os.NewSyscallError("pidfd_open", err)
}

// processOf takes a pidfd and returns its process, if that has not ended.
func processOf(n, pid int) (Process, error) {
	p := Process{scmrights.NewFD(n), ID{PID: pid}}
	var st unix.Stat_t
	if err := unix.Fstat(n, &st); err == nil && kernel.HasPidfs() {
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

// OfPID returns the process with that pid; the caller must close its FD. The errors are those of [WithPID]. It needs no
// /proc since Linux 6.9.
func OfPID(pid int) (Process, error) {
	n, err := openPidfd(pid)
	if err != nil {
		return Process{}, err
	}
	return processOf(n, pid)
}

// OwnerOf returns the user of the process with that pid, if /proc shows that.
func OwnerOf(pid int) (uid uint32, known bool) {
	var st unix.Stat_t
	err := unix.Stat(fmt.Sprintf("/proc/%d", pid), &st)
	return st.Uid, err == nil
}

// WithPID returns the process with that pid, and its credentials; the caller must close
// its FD. The error is [ErrExited] if there is no such process, and may be an [ErrUnfollowed].
func WithPID(pid int) (p Process, cred Credentials, err error) {
	n, err := openPidfd(pid)
	if err != nil {
		return p, cred, err
	}
	path := fmt.Sprintf("/proc/%d", pid)
	var st unix.Stat_t
	serr := unix.Stat(path, &st)
	p, err = processOf(n, pid) // after Stat, so that both are of the same process
	if err == nil && serr != nil {
		_ = p.FD.Close()
		p, err = Process{}, &os.PathError{Op: "stat", Path: path, Err: serr}
	}
	return p, Credentials{pid, st.Uid, st.Gid}, err
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

// Signal sends sig to the process of a pidfd, which it borrows. The process may have chosen the signal, and may have
// executed a set-user-ID program since, so the error is [ErrNotAllowed] if the user of cred could not send it. It is
// [ErrExited] if the process has exited.
func Signal(pidfd *scmrights.FD, cred Credentials, sig unix.Signal) error {
	err := cred.mayKill()
	if Exited(pidfd) {
		return ErrExited
	}
	if err != nil {
		return err
	}
	if cerr := pidfd.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); cerr != nil {
		return cerr
	}
	if err == unix.ESRCH {
		return ErrExited
	}
	return os.NewSyscallError("pidfd_send_signal", err)
}

// ExitWatcher reports when processes end. All pidfds share one epoll instance, so a
// process costs no goroutine and no thread. Its methods may be called concurrently.
type ExitWatcher struct{ poller *epoll.Poller }

// NewExitWatcher returns a watcher of no process; the caller must close it.
func NewExitWatcher() (*ExitWatcher, error) {
	p, err := epoll.New("pidfds")
	if err != nil {
		return nil, err
	}
	return &ExitWatcher{p}, nil
}

// Add makes Run report id once the process of pidfd has ended, which may be at once. It
// borrows pidfd; Remove must come before its Close.
func (w *ExitWatcher) Add(id int64, pidfd *scmrights.FD) error {
	return w.poller.Add(pidfd, unix.EPOLLIN|unix.EPOLLONESHOT, uint64(id))
}

// Remove makes Run forget pidfd.
func (w *ExitWatcher) Remove(pidfd *scmrights.FD) { _ = w.poller.Del(pidfd) } // fails only if Add did

// Run calls exited with the ids of processes that have ended, until Close. Exited must not keep ids.
func (w *ExitWatcher) Run(exited func(ids []int64)) {
	var ids []int64
	for w.poller.Wait(func(id uint64, _ uint32) { ids = append(ids, int64(id)) }) == nil {
		exited(ids)
		ids = ids[:0]
	}
}

// Close ends Run. Closing again does nothing.
func (w *ExitWatcher) Close() { w.poller.Close() }
