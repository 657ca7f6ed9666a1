//go:build linux

// Package logging makes the logs of both commands.
package logging

import (
	"io"
	"os"
	"time"

	"github.com/fdbroker/fdbroker/internal/terminal"
	"github.com/rs/zerolog"
	"github.com/rs/zerolog/diode"
)

const (
	// Buffer is how many lines wait for a reader of the log that has fallen behind.
	Buffer = 1024
	// flushTime is how long the end of the command waits for that reader.
	flushTime = time.Second
)

// New returns a logger on w, and what flushes and ends it. The format is json, console
// or auto. Whoever reads w may stop reading: lines are then dropped, and their number
// is logged, but the command goes on, and ends when it is told to.
func New(w io.Writer, level zerolog.Level, format string) (zerolog.Logger, func()) {
	w = writer(w, format)
	var log zerolog.Logger
	lines := diode.NewWriter(struct{ io.Writer }{w}, Buffer, 0, func(missed int) {
		log.Warn().Int("count", missed).Msg("log lines dropped: nobody reads them")
	})
	log = zerolog.New(lines).Level(level).With().Timestamp().Logger()
	return log, func() {
		flushed := make(chan struct{})
		go func() {
			_ = lines.Close() // does not close w, which has no Close here
			close(flushed)
		}()
		select {
		case <-flushed:
		case <-time.After(flushTime): // the process ends; what blocks ends with it
		}
	}
}

// Plain is New without its buffer, for who has next to nothing to say.
func Plain(w io.Writer, level zerolog.Level, format string) zerolog.Logger {
	return zerolog.New(writer(w, format)).Level(level).With().Timestamp().Logger()
}

// writer returns what writes events to w in that format.
func writer(w io.Writer, format string) io.Writer {
	if format != "console" && (format != "auto" || !terminal.Is(w)) {
		return w
	}
	return zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly, FieldsOrder: []string{"name", "network", "address", "backlog"}, NoColor: !terminal.Is(w) || os.Getenv("NO_COLOR") != ""}
}
