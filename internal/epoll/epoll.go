// Package epoll waits for many descriptors with one goroutine and no thread: its epoll instance is itself a file in the
// runtime's poller. It must never read or close a descriptor that it was given.
package epoll

import (
	"errors"
	"os"
	"syscall"

	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// Poller is an epoll instance. Wait must not run twice at a time; everything else may be
// called concurrently, also while Wait blocks.
type Poller struct {
	file   *os.File
	conn   syscall.RawConn
	events [64]unix.EpollEvent // of Wait alone
}

// New returns a Poller, which the caller must close. The name is for error texts.
func New(name string) (*Poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // NewFile adds only such a file to the runtime's poller
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	p := &Poller{file: os.NewFile(uintptr(fd), name)}
	if p.conn, err = p.file.SyscallConn(); err != nil {
		_ = p.file.Close()
		return nil, err
	}
	return p, nil
}

// Add makes Wait report id when one of events (EPOLLIN and so on) happens to fd, which it borrows. The caller should
// call Del before it closes fd, because a duplicate in another process keeps the registration alive.
func (p *Poller) Add(fd *scmrights.FD, events uint32, id uint64) error {
	return p.control(unix.EPOLL_CTL_ADD, fd, events, id)
}

// Mod changes what Add said of fd.
func (p *Poller) Mod(fd *scmrights.FD, events uint32, id uint64) error {
	return p.control(unix.EPOLL_CTL_MOD, fd, events, id)
}

// Del undoes Add. A Wait that is running may still report fd's id.
func (p *Poller) Del(fd *scmrights.FD) error { return p.control(unix.EPOLL_CTL_DEL, fd, 0, 0) }

func (p *Poller) control(op int, fd *scmrights.FD, events uint32, id uint64) error {
	e := unix.EpollEvent{Events: events, Fd: int32(id), Pad: int32(id >> 32)}
	var err, ferr error
	cerr := p.conn.Control(func(poll uintptr) {
		ferr = fd.Control(func(n uintptr) { err = unix.EpollCtl(int(poll), op, int(n), &e) })
	})
	return errors.Join(cerr, ferr, os.NewSyscallError("epoll_ctl", err))
}

// Wait waits until something happens and calls each for all of that, at most 64 events.
// Its error says that p was closed; there is usually no other.
func (p *Poller) Wait(each func(id uint64, events uint32)) error {
	n := 0
	var err error
	cerr := p.conn.Read(func(poll uintptr) bool {
		n, err = unix.EpollWait(int(poll), p.events[:], 0)
		return n != 0 && err != unix.EINTR
	})
	if cerr != nil {
		return cerr
	}
	for _, e := range p.events[:max(n, 0)] {
		each(uint64(uint32(e.Fd))|uint64(uint32(e.Pad))<<32, e.Events)
	}
	return os.NewSyscallError("epoll_wait", err)
}

// Close ends Wait, and closes p. It may be called again.
func (p *Poller) Close() { _ = p.file.Close() }
