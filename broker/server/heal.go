//go:build linux

package server

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

const (
	// lookEvery is how often held listeners are looked at: what a worker does is undone
	// within twice that.
	lookEvery = 50 * time.Millisecond
	// lookShare is the share of a processor that looking may take: one in so many. With
	// so many held listeners that it takes more, it is done less often.
	lookShare = 100
	// lookIdle is how many times to look once nothing is held any more, before that
	// stops: who gets a listener next need not wake the healer up each time.
	lookIdle = 20
	// breath is how long the healer waits after each turn, so that a worker that does
	// harm in a loop cannot keep it busy.
	breath = 2 * time.Millisecond
)

// healer undoes what workers do to the sockets that they share (see [socket.Socket.Repair]).
//
// The kernel tells of shutdowns, by an epoll instance in which all listeners are
// registered without asking for anything that a connection brings: so no connection
// wakes it (KERNEL §15). It also tells of changes of paths, by inotify. Of everything
// else it does not: that is looked for, while anybody holds a listener.
type healer struct {
	server  *Server
	epoll   *os.File
	rc      syscall.RawConn
	inotify *scmrights.FD // nil where there is none to be had: paths are only looked at
	nudged  chan struct{}
	done    chan struct{}
	closing sync.Once
	running sync.WaitGroup
	batch   []patient // of round alone, to be used again
	idle    int
}

// patient is a listener to be looked at, as it was when the registry's lock was held.
type patient struct {
	listener *listener
	socket   *socket.Socket
	blocking bool // as the broker has left it
	flipped  bool // as was told
}

// newHealer starts a healer, which the caller must close.
func newHealer(s *Server) (*healer, error) {
	n, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(n, true); err != nil { // so that NewFile gives it to the poller
		_ = unix.Close(n)
		return nil, os.NewSyscallError("fcntl", err)
	}
	h := &healer{server: s, epoll: os.NewFile(uintptr(n), "listeners"), nudged: make(chan struct{}, 1), done: make(chan struct{})}
	if h.rc, err = h.epoll.SyscallConn(); err != nil {
		_ = h.epoll.Close()
		return nil, err
	}
	if n, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err == nil {
		h.inotify = scmrights.NewFD(n)
		_ = h.register(unix.EPOLL_CTL_ADD, h.inotify, unix.EPOLLIN)
	}
	h.running.Go(h.listen)
	h.running.Go(h.look)
	return h, nil
}

// close waits until nothing is being healed. It may be called again.
func (h *healer) close() {
	h.closing.Do(func() {
		close(h.done)
		_ = h.epoll.Close()
	})
	h.running.Wait()
	if h.inotify != nil {
		_ = h.inotify.Close()
	}
}

// register changes what is told of fd; the number of its descriptor is what an event
// knows it by.
func (h *healer) register(op int, fd *scmrights.FD, events uint32) (err error) {
	cerr := h.rc.Control(func(ep uintptr) {
		ferr := fd.Control(func(n uintptr) {
			err = unix.EpollCtl(int(ep), op, int(n), &unix.EpollEvent{Events: events, Fd: int32(n)})
		})
		err = errors.Join(ferr, err)
	})
	return errors.Join(cerr, err)
}

// listen heals what the kernel tells of.
func (h *healer) listen() {
	events := make([]unix.EpollEvent, 64)
	for {
		n := 0
		err := h.rc.Read(func(ep uintptr) bool {
			n, _ = unix.EpollWait(int(ep), events, 0)
			return n > 0
		})
		if err != nil {
			return
		}
		for _, ev := range events[:n] {
			if h.isInotify(ev.Fd) {
				h.pathsChanged()
			} else if p, ok := h.server.registry.patientBy(ev.Fd); ok {
				h.heal(p)
			}
		}
		select {
		case <-time.After(breath):
		case <-h.done:
			return
		}
	}
}

func (h *healer) isInotify(number int32) (same bool) {
	if h.inotify != nil {
		_ = h.inotify.Control(func(n uintptr) { same = int32(n) == number })
	}
	return same
}

// pathsChanged heals the listeners whose paths inotify tells of.
func (h *healer) pathsChanged() {
	const head = unix.SizeofInotifyEvent
	b := make([]byte, 64*head) // what is watched is files: events have no names
	n := 0
	_ = h.inotify.Control(func(fd uintptr) { n, _ = unix.Read(int(fd), b) })
	seen := make(map[int32]bool)
	for b = b[:max(n, 0)]; len(b) >= head; b = b[min(head+int(binary.NativeEndian.Uint32(b[12:])), len(b)):] {
		watch := int32(binary.NativeEndian.Uint32(b))
		if seen[watch] {
			continue
		}
		seen[watch] = true
		for _, p := range h.server.registry.patientsAt(watch) {
			h.heal(p)
		}
	}
}

// look looks at what is held, again and again.
func (h *healer) look() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-h.done:
			return
		case <-h.nudged:
		case <-timer.C:
		}
		if next := h.round(); next > 0 {
			timer.Reset(next)
		} else {
			timer.Stop()
		}
	}
}

// round looks at everything once, and returns when to do that again; 0: once it is
// nudged.
func (h *healer) round() time.Duration {
	runtime.LockOSThread() // for its clock
	defer runtime.UnlockOSThread()
	began := threadTime()
	h.watchPaths()
	r := h.server.registry
	r.mu.Lock()
	h.batch = r.patients(h.batch[:0])
	busy := len(h.batch) > 0 || r.ward.ailing()
	if h.idle++; busy {
		h.idle = 0
	}
	asleep := h.idle > lookIdle && len(r.ward.arrived) == 0
	r.ward.awake = !asleep
	r.mu.Unlock()
	if asleep {
		return 0
	}
	for _, p := range h.batch {
		h.heal(p)
	}
	clear(h.batch)
	return max(lookEvery, lookShare*(threadTime()-began))
}

// threadTime returns how long this thread has used a processor.
func threadTime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// watchPaths has inotify watch the paths of listeners that are new, and then looks at
// those: something may have happened to one before.
func (h *healer) watchPaths() {
	r := h.server.registry
	r.mu.Lock()
	arrived := r.ward.arrived
	r.ward.arrived = nil
	r.mu.Unlock()
	if h.inotify == nil {
		return
	}
	for _, l := range arrived {
		watch, ok := 0, false
		_ = h.inotify.Control(func(fd uintptr) { watch, ok = l.socket.WatchPath(int(fd)) })
		r.mu.Lock()
		switch {
		case ok && l.unbound:
			h.unwatchPath(int32(watch))
		case ok:
			l.watch = int32(watch)
			r.ward.byPath[l.watch] = l
		}
		p := l.patient()
		r.mu.Unlock()
		h.heal(p)
	}
}

func (h *healer) unwatchPath(watch int32) {
	_ = h.inotify.Control(func(fd uintptr) { _, _ = unix.InotifyRmWatch(int(fd), uint32(watch)) })
}

// heal looks at p, undoes what it can, and records that.
func (h *healer) heal(p patient) {
	undone, err := p.socket.Repair()
	switch {
	case errors.Is(err, os.ErrClosed):
		return // unbound since
	case err != nil || len(undone) > 0 || p.listener.sick.Load():
		h.server.locked(func() { h.server.registry.treated(p, undone, err) })
	}
	if is, err := p.socket.Blocking(); err == nil && (is != p.blocking) != p.flipped {
		h.server.locked(func() { h.server.registry.tellFlipped(p.listener) })
	}
}
