//go:build linux

package launch

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// explain turns execve's error for file, which was found before, into one that
// says what to do. Like its caller it must not use the runtime's poller.
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

// missingLoader says what an executable that begins with start lacks, when the
// file itself is there and execve still reports that one is not.
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

// isBinary reports whether a file that begins with start is no shell script: its
// first line has a zero byte, as in bash.
func isBinary(start []byte) bool {
	line, _, _ := bytes.Cut(start, []byte("\n"))
	return bytes.IndexByte(line, 0) >= 0
}

// head returns as much of the beginning of file as execve(2) looks at, or
// nothing where it cannot be read. An os.File would use the poller.
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
