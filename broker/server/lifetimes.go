//go:build linux

package server

import (
	"os"
	"syscall"

	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// lifetimes tells when processes end. All pidfds share one epoll instance, and
// that waits in the runtime's poller like any other file: a process costs no
// goroutine and no thread.
type lifetimes struct {
	file  *os.File
	rc    syscall.RawConn
	pidfs bool // pidfds have inodes of their own
}

func newLifetimes() (*lifetimes, error) {
	n, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(n, true); err != nil { // so that NewFile gives it to the poller
		_ = unix.Close(n)
		return nil, os.NewSyscallError("fcntl", err)
	}
	l := &lifetimes{file: os.NewFile(uintptr(n), "pidfds"), pidfs: hasPidfs()}
	if l.rc, err = l.file.SyscallConn(); err != nil {
		_ = l.file.Close()
		return nil, err
	}
	return l, nil
}

// add makes run report id once the process of pidfd has ended, which may be
// at once. It borrows pidfd; remove must come before its Close.
func (l *lifetimes) add(id int64, pidfd *scmrights.FD) error {
	return l.ctl(unix.EPOLL_CTL_ADD, pidfd, &unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLONESHOT,
		Fd:     int32(id), Pad: int32(id >> 32),
	})
}

func (l *lifetimes) remove(pidfd *scmrights.FD) {
	_ = l.ctl(unix.EPOLL_CTL_DEL, pidfd, nil) // fails only where add did
}

func (l *lifetimes) ctl(op int, pidfd *scmrights.FD, ev *unix.EpollEvent) error {
	var err error
	cerr := l.rc.Control(func(ep uintptr) {
		perr := pidfd.Control(func(fd uintptr) { err = unix.EpollCtl(int(ep), op, int(fd), ev) })
		if perr != nil {
			err = perr
		}
	})
	if cerr != nil {
		return cerr
	}
	return os.NewSyscallError("epoll_ctl", err)
}

// run calls ended with the ids of processes that have ended, until close.
func (l *lifetimes) run(ended func(ids []int64)) {
	events := make([]unix.EpollEvent, 64)
	ids := make([]int64, 0, len(events))
	for {
		n := 0
		err := l.rc.Read(func(ep uintptr) bool {
			n, _ = unix.EpollWait(int(ep), events, 0) // EINTR does not happen without waiting
			return n > 0
		})
		if err != nil {
			return
		}
		ids = ids[:0]
		for _, ev := range events[:n] {
			ids = append(ids, int64(uint32(ev.Fd))|int64(ev.Pad)<<32)
		}
		ended(ids)
	}
}

func (l *lifetimes) close() { _ = l.file.Close() }
