// Package logging makes the loggers of both commands. A log without a reader never delays the command. No other package
// makes a logger.
package logging

import (
	"bytes"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fdbroker/fdbroker/internal/cli"
	"github.com/rs/zerolog"
)

// Buffer is how many lines wait for a slow reader of the log.
const Buffer = 1024

// New returns a logger on w, and its lines, which the caller must close. The format is json, console or auto. If the
// reader of w stops, lines are dropped, and their number is logged.
func New(w io.Writer, level zerolog.Level, format string) (zerolog.Logger, *Lines) {
	direct := Plain(w, level, format)
	lines := &Lines{written: make(chan struct{}), waiting: make(chan []byte, Buffer)}
	go lines.run(writer(w, format), direct) // ends after Close, or with the process if w blocks
	return direct.Output(lines), lines
}

// Plain is New without a buffer.
func Plain(w io.Writer, level zerolog.Level, format string) zerolog.Logger {
	return zerolog.New(writer(w, format)).Level(level).With().Timestamp().Logger()
}

// writer returns a writer of events to w in that format.
func writer(w io.Writer, format string) io.Writer {
	if format != "console" && (format != "auto" || !cli.IsTerminal(w)) {
		return w
	}
	return zerolog.ConsoleWriter{
		Out: w, TimeFormat: time.TimeOnly, FieldsOrder: []string{"name", "network", "address", "backlog"},
		NoColor: !cli.IsTerminal(w) || os.Getenv("NO_COLOR") != "",
	}
}

// Lines writes the lines of a log in a goroutine of its own, so that logging never waits for a reader of the log.
type Lines struct {
	dropped atomic.Int64  // since this was logged
	written chan struct{} // is closed when all lines are written, after Close

	mu      sync.Mutex
	waiting chan []byte
	closed  bool
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

func (l *Lines) run(w io.Writer, direct zerolog.Logger) {
	defer close(l.written)
	for line := range l.waiting {
		if n := l.dropped.Swap(0); n > 0 {
			direct.Warn().Int64("count", n).Msg("log lines dropped, because nobody reads the log")
		}
		_, _ = w.Write(line)
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
	case <-time.After(time.Second): // the process ends, and with it a write that blocks
	}
}
