//go:build linux

package health

import (
	"encoding/binary"
	"errors"
	"math"
	"os"
	"runtime"
	"time"

	"github.com/fdbroker/fdbroker/broker/socket"
	"golang.org/x/sys/unix"
)

const (
	lookEvery = 50 * time.Millisecond  // for freshTime after a grant began or ended
	freshTime = 5 * time.Second        // then each pause is twice as long
	lookMost  = 5 * time.Minute        // the longest pause
	retryMost = 500 * time.Millisecond // between attempts, or a quarter of the time that they have gone on
	lookShare = 100                    // scheduled looks take one in so many of a processor's time
	roundMost = 1000                   // so many of them keep what the kernel reports waiting
	breath    = 2 * time.Millisecond   // after each report of the kernel: a worker may do harm in a loop

	never = time.Duration(math.MaxInt64)
)

// listen schedules looks because of what the kernel reports.
func (m *Monitor) listen() {
	for m.poller.Wait(m.happened) == nil {
		time.Sleep(breath)
	}
}

func (m *Monitor) happened(id uint64, _ uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if id == inotifyID {
		m.pathsChanged()
	} else {
		m.lookSoon(m.byID[id], 0)
	}
}

// pathsChanged reads from inotify whose paths have changed.
func (m *Monitor) pathsChanged() {
	const head = unix.SizeofInotifyEvent
	b := make([]byte, 64*head) // only files are watched: events have no names
	n := 0
	_ = m.inotify.Control(func(fd uintptr) { n, _ = unix.Read(int(fd), b) })
	for b = b[:max(n, 0)]; len(b) >= head; b = b[min(head+int(binary.NativeEndian.Uint32(b[12:])), len(b)):] {
		watch := int32(binary.NativeEndian.Uint32(b))
		m.lookSoon(m.byPath[watch], 0)
		if watch == -1 { // IN_Q_OVERFLOW: events were lost
			for _, t := range m.byPath {
				m.lookSoon(t, 0)
			}
		}
	}
}

// lookSoon schedules a look because something has happened. If a repair has failed, its next
// attempt is soon enough: perhaps the last attempt is what has happened.
func (m *Monitor) lookSoon(t *target, pause time.Duration) {
	if t != nil && t.attempts > 0 {
		pause = min(t.pause, retryMost)
	}
	if t != nil {
		m.lookWithin(t, pause)
	}
}

// lookAgain schedules the look after one that has ended. A socket that nobody holds is looked
// at again only if its fault may pass.
func (m *Monitor) lookAgain(t *target) {
	now := m.now()
	pause := min(max(2*t.pause, lookEvery), lookMost)
	switch {
	case t.attempts > 0:
		m.lookWithin(t, min(pause, max(retryMost, (now-t.since)/4)))
	case t.holders == 0:
	case now-t.changed < freshTime:
		m.lookWithin(t, lookEvery)
	default:
		m.lookWithin(t, pause)
	}
}

// lookWithin schedules a look now (0) or at the next multiple of pause, unless one is due
// before. So any number of sockets with the same pause need one wake-up.
func (m *Monitor) lookWithin(t *target, pause time.Duration) {
	var due time.Duration
	if t.pause = pause; pause > 0 {
		due = m.now().Truncate(pause) + pause
	}
	if due < t.due {
		t.due = due
		m.arm(due)
	}
}

// arm makes the timer fire when something is due.
func (m *Monitor) arm(due time.Duration) {
	if due > 0 {
		due = max(due, m.notBefore)
	}
	if due < m.wakeAt {
		m.wakeAt = due
		m.timer.Reset(max(due-m.now(), 0))
	}
}

// run makes a round whenever something is due.
func (m *Monitor) run() {
	defer m.timer.Stop()
	for {
		select {
		case <-m.done:
			return
		case <-m.timer.C:
			m.round()
		}
	}
}

// round looks at all targets that are due.
func (m *Monitor) round() {
	runtime.LockOSThread() // for its clock
	defer runtime.UnlockOSThread()
	began := threadTime()
	m.collect()
	for _, t := range m.batch {
		m.look(t)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.notBefore = max(m.notBefore, m.now()+lookShare*(threadTime()-began))
}

// threadTime returns how long this thread has used a processor.
func threadTime() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts)
	return time.Duration(ts.Nano())
}

// collect makes batch the targets that are due, and arms the timer for the others.
func (m *Monitor) collect() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.batch)
	m.batch = m.batch[:0]
	now, next := m.now(), never
	for _, t := range m.targets {
		if t.due == 0 || t.due <= now && m.notBefore <= now && len(m.batch) < roundMost {
			t.due = never
			m.batch = append(m.batch, t)
		}
		next = min(next, t.due)
	}
	m.wakeAt = never
	m.arm(next)
}

// look repairs t and reports that.
func (m *Monitor) look(t *target) {
	s := t.socket
	if t.newPath {
		t.newPath = false
		m.watchPath(s)
	}
	done, err := s.Repair()
	var notes []string
	var fault *Fault
	count, modeChanged := 0, false
	if errors.Is(err, os.ErrClosed) || !m.with(s, func(t *target) {
		for _, what := range done {
			notes = t.count(notes, what, m.now())
		}
		count, fault, modeChanged = t.repaired, t.ended(err, m.now()), t.checkMode()
		m.lookAgain(t)
	}) {
		return // it is not watched any more
	}
	for _, what := range notes {
		m.report.Repaired(s, what, count)
	}
	if fault != nil {
		m.reportFault(s, *fault)
	}
	if modeChanged {
		m.report.ModeChanged(s)
	}
}

// watchPath makes inotify watch the path of s. If s is not watched any more, the watch ends
// with the file.
func (m *Monitor) watchPath(s *socket.Socket) {
	_ = m.inotify.Control(func(fd uintptr) {
		if watch, ok := s.WatchPath(int(fd)); ok {
			m.with(s, func(t *target) { t.watch, m.byPath[int32(watch)] = int32(watch), t })
		}
	})
}

// reportFault reports a fault. If another process has the address, the monitor first finds
// out which, and goes on meanwhile, because that may take seconds.
func (m *Monitor) reportFault(s *socket.Socket, f Fault) {
	if !errors.Is(f.Err, unix.EADDRINUSE) {
		m.report.Faulty(s, f)
		return
	}
	m.running.Go(func() {
		f.Who = s.WhoHas()
		if m.with(s, func(t *target) {
			if t.attempts > 0 && f.Who != "" {
				t.fault = f.Who
			}
		}) {
			m.report.Faulty(s, f)
		}
	})
}
