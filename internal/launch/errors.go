//go:build linux

package launch

import "errors"

var (
	// ErrNotFound is matched by errors that say that there is no such command.
	ErrNotFound = errors.New("launch: command not found")
	// ErrNotRunnable is matched by errors that say that there is such a command,
	// and that the kernel will not run it.
	ErrNotRunnable = errors.New("launch: command not runnable")
)

// The exit statuses that env(1), timeout(1) and the shells share.
const (
	exitFailed      = 125
	exitNotRunnable = 126
	exitNotFound    = 127
)

// ExitCode returns the exit status for an error of [Prepare] or [Program.Exec]:
// 127 where the command was not found, 126 where it was found but cannot be run,
// 125 for everything else, wrong usage included, and 0 for nil.
func ExitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrNotFound):
		return exitNotFound
	case errors.Is(err, ErrNotRunnable):
		return exitNotRunnable
	}
	return exitFailed
}

// commandError tells in text why a command cannot be run. It matches kind, one
// of the sentinels above, and cause, the system's own error.
type commandError struct {
	text  string
	kind  error
	cause error
}

func (e *commandError) Error() string   { return e.text }
func (e *commandError) Unwrap() []error { return []error{e.kind, e.cause} }
