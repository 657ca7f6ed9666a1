package logging

import (
	"bytes"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// Lines writes the lines of a log in a goroutine of its own, so that logging never waits for a reader of the log.
type Lines struct {
	w       io.Writer
	missed  func(count int) // is called before the next line, if lines were dropped
	dropped atomic.Int64    // since missed was called
	written chan struct{}   // is closed when all lines are written, after Close

	mu      sync.Mutex
	waiting chan []byte
	closed  bool
}

func newLines(w io.Writer, missed func(int)) *Lines {
	l := &Lines{w: w, missed: missed, written: make(chan struct{}), waiting: make(chan []byte, Buffer)}
	go l.run() // ends after Close, or with the process if w blocks
	return l
}

// Write adds a line. If too many wait, it drops the oldest one. After Close it does nothing.
func (l *Lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for !l.closed {
		select {
		case l.waiting <- bytes.Clone(line):
			return len(line), nil
		default:
		}
		select {
		case <-l.waiting:
			l.dropped.Add(1)
		default:
		}
	}
	return len(line), nil
}

func (l *Lines) run() {
	defer close(l.written)
	for line := range l.waiting {
		if n := l.dropped.Swap(0); n > 0 {
			l.missed(int(n))
		}
		_, _ = l.w.Write(line)
	}
}

// Close waits until all lines are written, for a second at most. It does not close the writer.
func (l *Lines) Close() {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.waiting)
	}
	l.mu.Unlock()
	select {
	case <-l.written:
	case <-time.After(flushTime): // the process ends, and with it a write that blocks
	}
}
