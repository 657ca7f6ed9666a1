package launch

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

var (
	// ErrNotFound is matched by errors of a command that does not exist.
	ErrNotFound = errors.New("launch: command not found")
	// ErrNotRunnable is matched by errors of a command that the kernel will not run.
	ErrNotRunnable = errors.New("launch: command not runnable")
)

// ExitCode returns the exit status for an error of this package, as of env(1), timeout(1) and the shells: 127 if the
// command was not found, 126 if it was found but cannot be run, 125 for everything else, and 0 for nil.
func ExitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrNotFound):
		return 127
	case errors.Is(err, ErrNotRunnable):
		return 126
	}
	return 125
}

// commandError says in text why a command cannot be run. It matches kind, one of the sentinels
// above, and cause, the system's error.
type commandError struct {
	text  string
	kind  error
	cause error
}

func (e *commandError) Error() string   { return e.text }
func (e *commandError) Unwrap() []error { return []error{e.kind, e.cause} }

// missing explains err, which [os.Stat] returned for file. As with env(1), only a file that
// does not exist is not found.
func missing(file string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return notRunnable(file, err, errors.Unwrap(err).Error()) // without the path
	}
	text := "cannot run " + file + ": no such file"
	if !strings.HasPrefix(file, "/") {
		if dir, err := os.Getwd(); err == nil {
			text += " in " + dir
		}
	}
	return &commandError{text: text, kind: ErrNotFound, cause: err}
}

func notRunnable(file string, cause error, why string) error {
	return &commandError{text: "cannot run " + file + ": " + why, kind: ErrNotRunnable, cause: cause}
}

// explain turns execve's error for file, which was found before, into one that says what to
// do. Like its caller it must not use the runtime's poller.
func explain(file string, err error) error {
	why := err.Error()
	switch err {
	case unix.ENOENT:
		if _, serr := os.Stat(file); errors.Is(serr, fs.ErrNotExist) {
			return missing(file, serr)
		}
		why = missingLoader(head(file))
	case unix.EACCES:
		why += ", for it or for the interpreter that it names, or its file system is mounted noexec"
	case unix.ENOEXEC:
		why = "its format is not one that this machine runs"
	case unix.E2BIG:
		why = "its words and environment are too long together, or one of them is (execve(2)); pass fewer, or use a file"
	case unix.ETXTBSY:
		why = "it is being written to"
	}
	return notRunnable(file, err, why)
}

// missingLoader says which file execve(2) has not found to run an executable that begins with start.
func missingLoader(start []byte) string {
	interpreter, script := interpreterOf(start)
	if !script {
		return "the loader that it was built for does not exist; it belongs to another system or C library"
	}
	why := "the interpreter that its first line names, " + strconv.Quote(interpreter) + ", does not exist"
	if line, _, _ := bytes.Cut(start, []byte("\n")); bytes.HasSuffix(line, []byte("\r")) {
		why += "; the line ends in CR LF, and the CR counts as part of it"
	}
	return why
}

// interpreterOf returns the interpreter of a script that begins with start.
func interpreterOf(start []byte) (path string, script bool) {
	line, _, _ := bytes.Cut(start, []byte("\n"))
	words, script := bytes.CutPrefix(line, []byte("#!"))
	if !script {
		return "", false
	}
	words = bytes.Trim(words, " \t")
	if i := bytes.IndexAny(words, " \t"); i >= 0 {
		words = words[:i]
	}
	return string(words), true
}

// isBinary reports whether a file that begins with start is no shell script. As for bash, its
// first line then has a zero byte.
func isBinary(start []byte) bool {
	line, _, _ := bytes.Cut(start, []byte("\n"))
	return bytes.IndexByte(line, 0) >= 0
}

// head returns the part of file that execve(2) looks at, or nothing if it cannot be read. It
// does not use an os.File, which would use the runtime's poller.
func head(file string) []byte {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	b := make([]byte, 256)
	n, err := unix.Read(fd, b)
	if err != nil {
		return nil
	}
	return b[:n]
}
