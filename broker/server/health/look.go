package health

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
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
	roundMost = 1000                   // so many of them delay a report of the kernel
	breath    = 2 * time.Millisecond   // after a report of harm by the kernel: a worker may do that in a loop
	notesMost = 5                      // so many of a socket's incidents Report receives in a minute

	never = time.Duration(math.MaxInt64)
)

// run makes a round whenever something is due or the kernel has reported something.
func (m *Monitor) run() {
	harm := false
	each := func(id uint64, events uint32) {
		m.mu.Lock()
		defer m.mu.Unlock()
		switch id {
		case timerID:
		case inotifyID:
			m.pathsChanged()
			harm = true
		default:
			harm = m.reported(m.byID[id], events) || harm
		}
	}
	for m.poller.Wait(each) == nil {
		m.round()
		if harm {
			time.Sleep(breath)
		}
		harm = false
	}
}

func (m *Monitor) pathsChanged() {
	const size = unix.SizeofInotifyEvent // only files are watched: events have no names
	b, n := make([]byte, 64*size), 0
	_ = m.inotify.Control(func(fd uintptr) { n, _ = unix.Read(int(fd), b) })
	changed := make(map[int]bool)
	for event := range slices.Chunk(b[:max(n, 0)], size) {
		changed[int(int32(binary.NativeEndian.Uint32(event)))] = true
	}
	for _, t := range m.targets {
		if t.watch != 0 && (changed[t.watch] || changed[-1]) { // -1: IN_Q_OVERFLOW, events were lost
			m.lookSoon(t, 0)
		}
	}
}

// lookSoon schedules a look because something has happened to t. If a repair has failed, its
// next attempt is soon enough: perhaps the last one caused the report.
func (m *Monitor) lookSoon(t *target, pause time.Duration) {
	if t.attempts > 0 {
		pause = min(t.pause, retryMost)
	}
	m.lookWithin(t, pause)
}

// lookWithin schedules a look now (0) or at the next multiple of pause, unless one is due
// before. Because the multiples begin with the last grant, it is quiet between 26 s and 51 s
// after that.
func (m *Monitor) lookWithin(t *target, pause time.Duration) {
	var due time.Duration
	if t.pause = pause; pause > 0 {
		due = m.multiple(m.now(), pause)
	}
	if due < t.due {
		t.due = due
		m.arm(due)
	}
}

// multiple returns the next multiple of pause. So any number of sockets with the same pause need one wake-up.
func (m *Monitor) multiple(now, pause time.Duration) time.Duration {
	return m.origin + (now - m.origin).Truncate(pause) + pause
}

func (m *Monitor) arm(due time.Duration) {
	if due > 0 {
		due = max(due, m.notBefore)
	}
	if due < m.wakeAt {
		m.wakeAt = due
		in := unix.NsecToTimespec(int64(max(due-m.now(), 1)))
		_ = m.timer.Control(func(fd uintptr) { _ = unix.TimerfdSettime(int(fd), 0, &unix.ItimerSpec{Value: in}, nil) })
	}
}

func (m *Monitor) round() {
	runtime.LockOSThread() // for its clock
	defer runtime.UnlockOSThread()
	began := threadTime()
	found := m.collect()
	for _, t := range m.batch {
		m.look(t)
	}
	m.reportIncidents(found)
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

// collect makes batch the targets that are due, checks the queues that are, and arms the timer for the others.
func (m *Monitor) collect() (found []incident) {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.batch)
	m.batch = m.batch[:0]
	now := m.now()
	next, found := m.checkQueues(now)
	for _, t := range m.targets {
		if t.due == 0 || t.due <= now && m.notBefore <= now && len(m.batch) < roundMost {
			t.due = never
			m.batch = append(m.batch, t)
		}
		next = min(next, t.due)
	}
	m.wakeAt = never
	m.arm(next)
	return found
}

func (m *Monitor) look(t *target) {
	s := t.socket
	if t.newPath {
		m.watchPath(t)
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
		if pause := t.nextPause(m.now()); pause > 0 {
			m.lookWithin(t, pause)
		}
		m.awaitArrival(t)
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

// watchPath makes inotify watch the path of t. If t was given up meanwhile, the watch ends with the file.
func (m *Monitor) watchPath(t *target) {
	t.newPath = false
	_ = m.inotify.Control(func(fd uintptr) {
		if watch, ok := t.socket.WatchPath(int(fd)); ok {
			m.with(t.socket, func(t *target) { t.watch = watch })
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

// OfLimit reports whether an incident is only that a worker had set the queue's limit, as most servers do when they start.
func OfLimit(what string) bool {
	return strings.HasPrefix(what, "backlog ") && strings.Contains(what, " instead of ")
}

// count counts an incident, and adds it to notes unless there were too many.
func (t *target) count(notes []string, what string, now time.Duration) []string {
	t.repaired++
	if OfLimit(what) {
		t.limits++
	}
	if now-t.minute >= time.Minute {
		t.minute, t.notes = now, 0
	}
	if t.notes++; t.notes > notesMost {
		t.untold++
		return notes
	}
	if t.untold > 0 {
		what = fmt.Sprintf("%s (and %d incidents before that were not told)", what, t.untold)
		t.untold = 0
	}
	return append(notes, what)
}

// ended records how an attempt to repair t ended, and returns the fault to be reported.
func (t *target) ended(err error, now time.Duration) *Fault {
	was := t.fault
	switch {
	case err == nil:
		t.fault, t.told, t.attempts = "", false, 0
		return nil
	case errors.Is(err, socket.ErrBeyondRepair):
		t.fault, t.attempts = err.Error(), 0
		if t.fault == was {
			return nil
		}
		return &Fault{Err: err, Attempts: 1}
	}
	if t.attempts++; t.attempts == 1 {
		t.since, t.pause = now, 0
	}
	if t.attempts == 1 || !errors.Is(err, unix.EADDRINUSE) { // else fault may say already which process it is
		t.told = t.told && t.fault == err.Error()
		t.fault = err.Error()
	}
	if t.attempts == 1 || t.told {
		return nil // a fault that passes at once is not worth a report, nor is one that was told
	}
	t.told = true
	return &Fault{Err: err, Attempts: t.attempts}
}

// checkMode returns true once if a holder has changed O_NONBLOCK, until it is right again.
func (t *target) checkMode() bool {
	is, err := t.socket.Blocking()
	if err != nil || (is != t.blocking) == t.modeTold {
		return false
	}
	t.modeTold = !t.modeTold
	return t.modeTold
}

// nextPause returns the pause after a look, or 0 if there is no reason for another one: the
// socket has neither a holder nor a fault that may pass.
func (t *target) nextPause(now time.Duration) time.Duration {
	pause := min(max(2*t.pause, lookEvery), lookMost)
	switch {
	case t.attempts > 0:
		return min(pause, max(retryMost, (now-t.since)/4))
	case t.holders == 0:
		return 0
	case now-t.changed < freshTime:
		return lookEvery
	}
	return pause
}
