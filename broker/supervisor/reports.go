package supervisor

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// StatusEnv names, in the environment of a [Command] that reports, the number of a
// descriptor: the end of a pipe. The command writes a line for each report. It must set
// close-on-exec before it becomes the worker, because the pipe's end means that it has.
const StatusEnv = "FDCLIENT_STATUS_FD"

// The reports.
const (
	ReportWaiting  = "waiting"  // there is no broker, or no such name
	ReportStandby  = "standby"  // all places are taken
	ReportReplaced = "replaced" // a newer deploy has replaced the worker's
	ReportFailed   = "failed"   // followed by an exit status and the reason
)

// maxReport is how many bytes of a line count.
const maxReport = 4096

// reports reads the pipe that a worker reports to.
type reports struct {
	fd   *scmrights.FD // nil: none, or closed
	line []byte        // that is not complete yet
}

// read returns the reports that have come, and whether the pipe has ended.
func (r *reports) read() (lines []string, ended bool) {
	var buf [512]byte
	for {
		n := 0
		var err error
		cerr := r.fd.Control(func(fd uintptr) { n, err = unix.Read(int(fd), buf[:]) })
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return lines, false
		case cerr != nil || err != nil || n == 0:
			return lines, true
		}
		for part := range bytes.Lines(buf[:n]) {
			line, complete := bytes.CutSuffix(part, []byte("\n"))
			if len(r.line)+len(line) <= maxReport {
				r.line = append(r.line, line...)
			}
			if complete {
				lines, r.line = append(lines, string(r.line)), r.line[:0]
			}
		}
	}
}

func (r *reports) close() {
	if r.fd != nil {
		_ = r.fd.Close()
	}
	r.fd, r.line = nil, nil
}

// parseFailure returns the error that follows ReportFailed.
func parseFailure(text string) *StartError {
	status, reason, _ := strings.Cut(text, " ")
	n, err := strconv.Atoi(status)
	if err != nil {
		n = 125
	}
	return &StartError{Status: n, Reason: reason}
}

// StartError says that the command could not be executed.
type StartError struct {
	Status int // the exit status that means it
	Reason string
}

func (e *StartError) Error() string { return e.Reason }
