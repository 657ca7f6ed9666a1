// Package logging makes the loggers of both commands. A log without a reader never delays the
// command. No other package makes a logger.
package logging

import (
	"io"
	"os"
	"time"

	"github.com/fdbroker/fdbroker/internal/cli"
	"github.com/rs/zerolog"
)

const (
	// Buffer is how many lines wait for a slow reader of the log.
	Buffer = 1024
	// flushTime is how long the command waits for that reader when it ends.
	flushTime = time.Second
)

// New returns a logger on w, and its lines, which the caller must close. The format is json,
// console or auto. If the reader of w stops, lines are dropped, and their number is logged.
func New(w io.Writer, level zerolog.Level, format string) (zerolog.Logger, *Lines) {
	direct := Plain(w, level, format)
	lines := newLines(writer(w, format), func(missed int) {
		direct.Warn().Int("count", missed).Msg("log lines dropped: nobody reads them")
	})
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
	return zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly, FieldsOrder: []string{"name", "network", "address", "backlog"}, NoColor: !cli.IsTerminal(w) || os.Getenv("NO_COLOR") != ""}
}
