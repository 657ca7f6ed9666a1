// Package health watches the sockets of listeners and repairs the harm that workers do to
// them (see [socket.Socket.Repair]): a worker holds the very socket that all others hold.
//
// The kernel reports shutdowns, by an epoll instance that asks for nothing that every connection
// brings (docs/kernel.md, Listeners and shutdown), and changes of paths, by inotify. Other
// changes it does not report. Servers make those as they start or stop, so the monitor looks
// at a held socket often after a grant began or ended, and then more and more rarely. It also
// notices that holders leave connections in the queue (see queue.go).
//
// The package has its own lock and its own list of sockets. It knows no names, grants or
// connections, calls only [Report], and never opens, replaces or closes a socket.
package health

import (
	"os"
	"strings"
	"sync"
	"time"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/internal/epoll"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// Report receives the findings of a monitor. Its methods are called without the monitor's lock, perhaps at the same
// time, and may call any method but Close. A report that is under way during [Monitor.Unwatch] may still arrive.
type Report interface {
	// Repaired reports undone harm, at most five times a minute for each socket; count is of all incidents so far.
	Repaired(s *socket.Socket, what string, count int)
	// Faulty reports harm that Repair could not undo, once: an [socket.ErrBeyondRepair] at once,
	// anything else after the second attempt, or if another fault follows.
	Faulty(s *socket.Socket, f Fault)
	// ModeChanged says, once until it is right again, that a holder has changed O_NONBLOCK.
	ModeChanged(s *socket.Socket)
	// Stalled says, once until Served, that the queue of a held socket was never seen empty for so long.
	Stalled(s *socket.Socket, lasted time.Duration)
	// Served says that a stalled queue is empty again.
	Served(s *socket.Socket, lasted time.Duration)
}

// Fault is something that Repair could not undo.
type Fault struct {
	Err      error
	Attempts int
	Who      string // if another process has the address: which, in words; may be empty
}

// Monitor watches sockets. Its methods may be called concurrently. Except Close they neither block nor call Report, so
// the caller may hold a lock that Report takes. A nil Monitor watches nothing.
type Monitor struct {
	report  Report
	poller  *epoll.Poller
	inotify *scmrights.FD // nil if the kernel gives none: paths are only looked at
	timer   *scmrights.FD // in poller, because its wake-up costs a fifth of that of a time.Timer
	now     func() time.Duration
	running sync.WaitGroup
	batch   []*target // of one round, to be used again

	mu        sync.Mutex
	targets   map[*socket.Socket]*target
	byID      map[uint64]*target // of the epoll instance
	queues    map[*target]*queue // those that were not empty
	lastID    uint64
	notBefore time.Duration // no scheduled look
	wakeAt    time.Duration // when timer fires
	origin    time.Duration // looks are at multiples of their pause after it
}

// target is a watched socket. Times count from the monitor's start.
type target struct {
	socket   *socket.Socket
	id       uint64
	watch    int  // of its path; 0: none
	newPath  bool // its path is to be watched
	armed    bool // the kernel is to report the next arrival
	holders  int32
	blocking bool // how the broker has left O_NONBLOCK
	modeTold bool // ModeChanged was called
	told     bool // the present fault, which may pass, was reported

	changed time.Duration // when a grant began or ended last
	pause   time.Duration // before the next look
	due     time.Duration // the next look; 0: now, because the kernel has reported something

	repaired int           // how often
	limits   int32         // so many of them restored the queue's limit only
	notes    int32         // so many incidents were reported in that minute
	untold   int32         // incidents since the last that was
	minute   time.Duration // the one in which
	fault    string        // the present one, or ""
	attempts int           // to repair a fault that may pass
	since    time.Duration // the first of them
}

// The ids that poller has for the timer and for inotify. Those of targets are greater.
const timerID, inotifyID = 0, 1

// Start returns a running monitor, which the caller must close.
func Start(r Report) (*Monitor, error) {
	m, err := newMonitor(r)
	if err != nil {
		return nil, err
	}
	m.running.Go(m.run)
	return m, nil
}

func newMonitor(r Report) (*Monitor, error) {
	poller, err := epoll.New("listeners")
	if err != nil {
		return nil, err
	}
	n, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		poller.Close()
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	began := time.Now()
	m := &Monitor{
		report: r, poller: poller, timer: scmrights.NewFD(n), now: func() time.Duration { return time.Since(began) },
		wakeAt: never, lastID: inotifyID,
		targets: make(map[*socket.Socket]*target), byID: make(map[uint64]*target), queues: make(map[*target]*queue),
	}
	_ = poller.Add(m.timer, unix.EPOLLIN|unix.EPOLLET, timerID)
	if n, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err == nil {
		m.inotify = scmrights.NewFD(n)
		_ = poller.Add(m.inotify, unix.EPOLLIN, inotifyID)
	}
	return m, nil
}

// Close stops the monitor and waits for its last round. It may be called again.
func (m *Monitor) Close() {
	if m == nil {
		return
	}
	m.poller.Close()
	m.running.Wait()
	_ = m.timer.Close()
	if m.inotify != nil {
		_ = m.inotify.Close()
	}
}

// Watch begins to watch s, which it borrows until [Monitor.Unwatch]. The broker has left s
// blocking or not. Watch ignores a descriptor that need not be a socket.
func (m *Monitor) Watch(s *socket.Socket, blocking bool) {
	if m == nil || s.Any() {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lastID++
	t := &target{socket: s, id: m.lastID, blocking: blocking, due: never}
	m.targets[s], m.byID[t.id] = t, t
	_ = m.poller.Add(s.FD(), quiet, t.id) // without that, only looks find a shutdown
	if m.inotify != nil && strings.HasPrefix(s.Address(), "/") {
		t.newPath = true
		m.lookSoon(t, 0)
	}
}

// Unwatch undoes Watch. It must come before s is closed, because other processes may hold the socket.
func (m *Monitor) Unwatch(s *socket.Socket) {
	m.with(s, func(t *target) {
		_ = m.poller.Del(s.FD())
		if t.watch != 0 {
			_ = m.inotify.Control(func(fd uintptr) { _, _ = unix.InotifyRmWatch(int(fd), uint32(t.watch)) })
		}
		delete(m.queues, t)
		delete(m.byID, t.id)
		delete(m.targets, s)
	})
}

// Held says that a grant of s began, Freed that one ended.
func (m *Monitor) Held(s *socket.Socket)  { m.change(s, 1) }
func (m *Monitor) Freed(s *socket.Socket) { m.change(s, -1) }

func (m *Monitor) change(s *socket.Socket, by int32) {
	m.with(s, func(t *target) {
		t.holders += by
		t.changed = m.now()
		m.origin = t.changed.Truncate(lookEvery)
		m.lookSoon(t, lookEvery)
	})
}

// SetMode makes s blocking or not, in one step for the monitor, which therefore does not take it for a holder's doing.
// It reports whether a holder had changed O_NONBLOCK before, unless ModeChanged has said that.
func (m *Monitor) SetMode(s *socket.Socket, blocking bool) (changed bool, err error) {
	if !m.with(s, func(t *target) {
		var is bool
		if is, err = s.Blocking(); err == nil && is != blocking {
			err = s.SetBlocking(blocking)
		}
		changed = err == nil && is != t.blocking && !t.modeTold
		t.blocking, t.modeTold = blocking, false
	}) {
		err = s.SetBlocking(blocking)
	}
	return changed, err
}

// Status is what a monitor says of a socket.
type Status struct {
	Repaired int       // how often
	Limits   int       // so many of them restored the queue's limit only
	Fault    string    // the present one, or ""
	Stalled  time.Time // since when; zero: it is not
}

// Status returns the status of s.
func (m *Monitor) Status(s *socket.Socket) (status Status) {
	m.with(s, func(t *target) {
		status = Status{Repaired: t.repaired, Limits: int(t.limits), Fault: t.fault}
		if q := m.queues[t]; q != nil && q.stalled {
			status.Stalled = time.Now().Add(q.since - m.now())
		}
	})
	return status
}

// BeyondRepair reports whether s has a fault that only another socket helps against.
func (m *Monitor) BeyondRepair(s *socket.Socket) (is bool) {
	m.with(s, func(t *target) { is = t.fault != "" && t.attempts == 0 })
	return is
}

// with calls f with the target of s and the lock held, if s is watched.
func (m *Monitor) with(s *socket.Socket, f func(t *target)) (watched bool) {
	if m == nil {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	t, watched := m.targets[s]
	if watched {
		f(t)
	}
	return watched
}
