package conn

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/scmrights"
)

// queue is what other goroutines want the loop to do. An eventfd wakes the loop, but only if it waits:
// most of what is queued is queued by the loop's own goroutine.
type queue struct {
	eventfd *scmrights.FD

	mu    sync.Mutex // taken after the registry's lock
	items []item
	awake bool // the loop looks at the queue before it waits again
}

// item is a connection that is to look at what it waits for, or a function to call.
type item struct {
	conn *Conn
	call func()
}

func (q *queue) open() error {
	n, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	q.eventfd = scmrights.NewFD(n)
	return nil
}

func (q *queue) close() {
	if q.eventfd != nil {
		_ = q.eventfd.Close()
	}
}

// add queues i. It may be called by any goroutine, also after close.
func (q *queue) add(i item) {
	q.mu.Lock()
	q.items = append(q.items, i)
	awake := q.awake
	q.mu.Unlock()
	if !awake {
		q.interrupt()
	}
}

func (q *queue) interrupt() {
	_ = q.eventfd.Control(func(fd uintptr) { _, _ = unix.Write(int(fd), []byte{1, 0, 0, 0, 0, 0, 0, 0}) })
}

// reset makes the next interrupt count.
func (q *queue) reset() {
	_ = q.eventfd.Control(func(fd uintptr) {
		var count [8]byte
		_, _ = unix.Read(int(fd), count[:])
	})
}

// begin begins a turn: what is queued in it needs no interrupt.
func (q *queue) begin() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.awake = true
}

// end ends a turn. What is in the queue by now is for the next one, so that new connections have their turn.
func (q *queue) end() {
	q.mu.Lock()
	q.awake = false
	more := len(q.items) > 0
	q.mu.Unlock()
	if more {
		q.interrupt()
	}
}

func (q *queue) take() []item {
	q.mu.Lock()
	defer q.mu.Unlock()
	items := q.items
	q.items = nil
	return items
}

// runQueue does what was queued.
func (l *Loop) runQueue() {
	for _, i := range l.queue.take() {
		switch {
		case i.call != nil:
			i.call()
		case !i.conn.closed:
			i.conn.advance()
		}
	}
}

// Post makes the loop's goroutine call f. It may be called by any goroutine.
func (l *Loop) Post(f func()) { l.queue.add(item{call: f}) }

// Stop makes Serve end. It may be called by any goroutine, also with the registry's lock held.
func (l *Loop) Stop() { l.Post(func() { l.stopping = true }) }
