package health

import (
	"time"

	"github.com/fdbroker/fdbroker/broker/socket"
	"golang.org/x/sys/unix"
)

// A listener is stalled if it has holders and its queue was not seen empty for stalledAfter. The kernel reports the
// first arrival, once: a registration that reports every arrival costs the workers throughput (docs/kernel.md, What a
// holder costs). From then on the monitor looks, until it sees the queue empty and has the kernel report again. So a
// busy listener costs two wake-ups in firstCheck, and one that nobody uses costs none.
const (
	firstCheck   = time.Second // after an arrival: a worker has usually accepted by then
	checkEvery   = 250 * time.Millisecond
	stalledAfter = 5 * time.Second
	checkMost    = 10 * time.Second // between checks of a queue that has been stalled for long
)

// The events that poller reports of a socket: its shutdown and, if it is armed, the next arrival.
const (
	quiet = unix.EPOLLRDHUP | unix.EPOLLET
	armed = quiet | unix.EPOLLIN | unix.EPOLLONESHOT
)

// queue is a queue that was not seen empty since.
type queue struct {
	since   time.Duration
	due     time.Duration // the next check
	stalled bool          // Stalled was called
}

// incident is the begin of a stall, or its end.
type incident struct {
	socket *socket.Socket
	ended  bool
	lasted time.Duration
}

// awaitArrival has the kernel report the next arrival at t, or one that waits already, unless that is done or the queue
// is being checked. A socket that was shut down would be reported without end.
func (m *Monitor) awaitArrival(t *target) {
	if t.armed || t.holders == 0 || m.queues[t] != nil {
		return
	}
	if _, sound := t.poll(); sound {
		t.armed = m.poller.Mod(t.socket.FD(), armed, t.id) == nil
	}
}

// reported handles a report of the kernel about t, which may be nil. It returns false if that was only an arrival.
func (m *Monitor) reported(t *target, events uint32) (harm bool) {
	if t == nil {
		return false
	}
	if t.armed {
		t.armed = false
		_ = m.poller.Mod(t.socket.FD(), quiet, t.id)
	}
	if events&^unix.EPOLLIN != 0 {
		m.lookSoon(t, 0)
		return true
	}
	if t.holders > 0 && m.queues[t] == nil {
		now := m.now()
		q := &queue{since: now, due: m.multiple(now, firstCheck)}
		m.queues[t] = q
		m.arm(q.due)
	}
	return false
}

// checkQueues checks the queues that are due. It returns when the next check is, and what is to be reported.
func (m *Monitor) checkQueues(now time.Duration) (next time.Duration, found []incident) {
	next = never
	for t, q := range m.queues {
		if q.due <= now && m.notBefore <= now {
			if i, is := m.check(t, q, now); is {
				found = append(found, i)
			}
		}
		if m.queues[t] != nil {
			next = min(next, q.due)
		}
	}
	return next, found
}

// check looks at a queue. A stall lasts until the queue is empty, also if the holder is replaced meanwhile.
func (m *Monitor) check(t *target, q *queue, now time.Duration) (i incident, is bool) {
	lasted := now - q.since
	waiting, _ := t.poll()
	if !waiting || t.holders == 0 && !q.stalled {
		delete(m.queues, t)
		m.awaitArrival(t)
		return incident{t.socket, true, lasted}, q.stalled
	}
	pause := checkEvery
	if q.stalled {
		pause = min(max(lasted/8, checkEvery), checkMost)
	}
	q.due = m.multiple(now, pause)
	if q.stalled || lasted < stalledAfter {
		return i, false
	}
	q.stalled = true
	return incident{t.socket, false, lasted}, true
}

// poll returns whether something is queued at t's socket, and whether that was not shut down.
func (t *target) poll() (waiting, sound bool) {
	p := [1]unix.PollFd{{Events: unix.POLLIN | unix.POLLRDHUP}}
	err := t.socket.FD().Control(func(fd uintptr) {
		p[0].Fd = int32(fd)
		_, _ = unix.Poll(p[:], 0)
	})
	sound = err == nil && p[0].Revents&^unix.POLLIN == 0
	return sound && p[0].Revents != 0, sound
}

func (m *Monitor) reportIncidents(found []incident) {
	for _, i := range found {
		if i.ended {
			m.report.Served(i.socket, i.lasted)
		} else {
			m.report.Stalled(i.socket, i.lasted)
		}
	}
}
