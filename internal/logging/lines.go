//go:build linux

package logging

import (
	"bytes"
	"io"
	"sync"
	"time"
)

// Lines are those of a log on the way to its writer, which nobody who logs has to wait
// for. It holds on to nothing once they are written.
type Lines struct {
	w      io.Writer
	missed func(count int) // told of lines that were dropped, before the next is written

	mu      sync.Mutex
	changed *sync.Cond
	waiting [Buffer][]byte // a ring
	first   int            // in it
	count   int            // that wait
	dropped int            // since missed was told
	writing bool
	closed  bool
}

func newLines(w io.Writer, missed func(int)) *Lines {
	l := &Lines{w: w, missed: missed}
	l.changed = sync.NewCond(&l.mu)
	go l.run() // ends after Close, or with the process where w blocks
	return l
}

// Write adds a line. Where too many wait the oldest one is dropped. After Close it does
// nothing.
func (l *Lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return len(line), nil
	}
	if l.count == Buffer {
		l.take()
		l.dropped++
	}
	l.waiting[(l.first+l.count)%Buffer] = bytes.Clone(line)
	l.count++
	l.changed.Broadcast()
	return len(line), nil
}

// take returns the oldest line, of which there is one.
func (l *Lines) take() []byte {
	line := l.waiting[l.first]
	l.waiting[l.first] = nil
	l.first = (l.first + 1) % Buffer
	l.count--
	return line
}

func (l *Lines) run() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		for l.count == 0 {
			if l.closed {
				return
			}
			l.changed.Wait()
		}
		line, dropped := l.take(), l.dropped
		l.dropped, l.writing = 0, true
		l.mu.Unlock()
		if dropped > 0 {
			l.missed(dropped)
		}
		_, _ = l.w.Write(line)
		l.mu.Lock()
		l.writing = false
		l.changed.Broadcast()
	}
}

// Wait waits until all lines are written, but no longer than limit.
func (l *Lines) Wait(limit time.Duration) {
	written := make(chan struct{})
	go func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for l.count > 0 || l.writing {
			l.changed.Wait()
		}
		close(written)
	}()
	select {
	case <-written:
	case <-time.After(limit):
	}
}

// Close waits for the lines as Wait does, for a second, and ends their way. It does not
// close the writer.
func (l *Lines) Close() {
	l.mu.Lock()
	l.closed = true
	l.changed.Broadcast()
	l.mu.Unlock()
	l.Wait(flushTime) // the process ends; what blocks ends with it
}
