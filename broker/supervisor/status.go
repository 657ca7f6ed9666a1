//go:build linux

package supervisor

import (
	"bytes"
	"strconv"

	"golang.org/x/sys/unix"
)

// StatusEnv names, in the environment of a [Command] that reports, the descriptor
// that it reports to: the end of a pipe, which must be close-on-exec before the
// command becomes the worker: its end tells that it has. Each report is a line.
const StatusEnv = "FDCLIENT_STATUS_FD"

// What is reported.
const (
	ReportWaiting  = "waiting"  // there is no broker, or no such name
	ReportStandby  = "standby"  // all places are taken
	ReportReplaced = "replaced" // its deploy has been replaced by a newer one
	ReportFailed   = "failed"   // with an exit status and the reason behind it
)

// maxReport bounds what is kept of a line.
const maxReport = 4096

// reports is the end of a pipe that a worker reports to, and the line that has begun.
type reports struct {
	fd   int // -1: closed
	line []byte
}

// read returns the reports that have come, and whether there will be no more.
func (r *reports) read() (lines []string, ended bool) {
	if r.fd < 0 {
		return nil, true
	}
	var buf [512]byte
	for {
		n, err := unix.Read(r.fd, buf[:])
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return lines, false
		case err != nil || n == 0:
			return lines, true
		}
		rest := buf[:n]
		for {
			part, after, complete := bytes.Cut(rest, []byte("\n"))
			if len(r.line)+len(part) <= maxReport {
				r.line = append(r.line, part...)
			}
			if !complete {
				break
			}
			lines = append(lines, string(r.line))
			r.line, rest = r.line[:0], after
		}
	}
}

func (r *reports) close() {
	if r.fd >= 0 {
		_ = unix.Close(r.fd)
	}
	r.fd, r.line = -1, nil
}

// failure returns what a report of that kind says.
func failure(text string) *StartError {
	status, reason, _ := bytes.Cut([]byte(text), []byte(" "))
	n, err := strconv.Atoi(string(status))
	if err != nil {
		n = 125
	}
	return &StartError{Status: n, Reason: string(reason)}
}

// StartError says that the command could not be executed.
type StartError struct {
	Status int // the exit status for it
	Reason string
}

func (e *StartError) Error() string { return e.Reason }
