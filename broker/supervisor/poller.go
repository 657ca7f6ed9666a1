//go:build linux

package supervisor

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// source says which of a worker's descriptors an event is about.
type source int32

const (
	fromProcess source = iota // the pidfd: it has ended
	fromStatus                // the status pipe
	fromNotify                // the socket that it says READY=1 on
)

// ready is a descriptor that can be read, as the poller was told of it.
type ready struct {
	worker int32
	source source
}

// poller waits for the descriptors of all workers at once: an epoll instance that
// the runtime's own poller watches, so that no thread is ever blocked in it.
type poller struct {
	file  *os.File
	conn  syscall.RawConn
	found chan []ready  // what can be read
	next  chan struct{} // who got that has read it
}

// newPoller returns a poller that runs; the caller must close it.
func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	p := &poller{file: os.NewFile(uintptr(fd), "epoll"), found: make(chan []ready), next: make(chan struct{})}
	if p.conn, err = p.file.SyscallConn(); err != nil {
		_ = p.file.Close()
		return nil, err
	}
	go p.run()
	return p, nil
}

// close ends the poller and waits until it has. Nobody may be reading found.
func (p *poller) close() {
	_ = p.file.Close()
	for {
		select {
		case _, open := <-p.found:
			if !open {
				return
			}
		case p.next <- struct{}{}:
		}
	}
}

// run tells what can be read, and looks again only when that has been read: the
// events are level-triggered.
func (p *poller) run() {
	defer close(p.found)
	events := make([]unix.EpollEvent, 64)
	batch := make([]ready, 0, len(events))
	for {
		n, err := p.wait(events)
		if err != nil {
			return // closed
		}
		batch = batch[:0]
		for _, e := range events[:n] {
			batch = append(batch, ready{e.Fd, source(e.Pad)})
		}
		p.found <- batch
		<-p.next
	}
}

func (p *poller) wait(events []unix.EpollEvent) (n int, err error) {
	cerr := p.conn.Read(func(fd uintptr) bool {
		n, err = unix.EpollWait(int(fd), events, 0)
		return n != 0 && err != unix.EINTR
	})
	if cerr != nil {
		return 0, cerr
	}
	return n, os.NewSyscallError("epoll_wait", err)
}

// add makes the poller tell when fd, which it borrows, can be read. Closing fd ends
// that, as nobody has a duplicate of it.
func (p *poller) add(fd int, what ready) error {
	return p.control(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN, what)
}

// mute makes the poller not tell of fd, and unmute makes it do so again.
func (p *poller) mute(fd int, what ready) error {
	return p.control(unix.EPOLL_CTL_MOD, fd, 0, what)
}

func (p *poller) unmute(fd int, what ready) error {
	return p.control(unix.EPOLL_CTL_MOD, fd, unix.EPOLLIN, what)
}

// remove makes the poller forget fd.
func (p *poller) remove(fd int) error {
	return p.control(unix.EPOLL_CTL_DEL, fd, 0, ready{})
}

func (p *poller) control(op, fd int, events uint32, what ready) error {
	var err error
	e := unix.EpollEvent{Events: events, Fd: what.worker, Pad: int32(what.source)}
	if cerr := p.conn.Control(func(poll uintptr) { err = unix.EpollCtl(int(poll), op, fd, &e) }); cerr != nil {
		return cerr
	}
	return os.NewSyscallError("epoll_ctl", err)
}
