//go:build linux

package main

import (
	"io"
	"os"
	"time"

	"github.com/fdbroker/fdbroker/internal/terminal"
	"github.com/rs/zerolog"
	"github.com/rs/zerolog/diode"
)

const (
	// logBuffer is how many lines wait for a reader of the log that has fallen behind.
	logBuffer = 1024
	// flushTime is how long the end of the broker waits for that reader.
	flushTime = time.Second
)

// newLogger returns a logger on w, and what flushes and ends it. Whoever reads w may
// stop reading: lines are then dropped, and their number is logged, but the broker
// goes on, and ends when it is told to.
func newLogger(w io.Writer, level zerolog.Level, format string) (zerolog.Logger, func()) {
	console := format == "console" || format == "auto" && terminal.Is(w)
	if console {
		w = consoleOf(w)
	}
	var log zerolog.Logger
	lines := diode.NewWriter(struct{ io.Writer }{w}, logBuffer, 0, func(missed int) {
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

// consoleOf returns what writes events for people to w.
func consoleOf(w io.Writer) io.Writer {
	return zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly, FieldsOrder: []string{"name", "network", "address", "backlog"}, NoColor: !terminal.Is(w) || os.Getenv("NO_COLOR") != ""}
}
