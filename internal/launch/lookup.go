//go:build linux

package launch

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// defaultPath is searched where the environment has no PATH.
const defaultPath = "/usr/local/bin:/usr/bin:/bin"

// lookup finds the file that execvp(3) would run for name: name itself where it
// contains a slash, else the first of that name in PATH that can be run. Files
// that cannot be are passed over, and named if no other is found.
func lookup(name string, environ []string) (string, error) {
	if strings.Contains(name, "/") {
		info, err := os.Stat(name)
		if err != nil {
			return "", missing(name, err)
		}
		return name, runnable(name, info)
	}
	path := searchPath(environ)
	var unusable error
	for dir := range strings.SplitSeq(path, ":") {
		if dir == "" {
			dir = "." // an empty entry is the working directory
		}
		file := dir + "/" + name
		info, err := os.Stat(file)
		if err != nil {
			continue
		}
		err = runnable(file, info)
		if err == nil {
			return file, nil
		}
		if unusable == nil {
			unusable = err
		}
	}
	if unusable != nil {
		return "", unusable
	}
	return "", &commandError{
		text:  fmt.Sprintf("no command is called %q in PATH (%s); a command elsewhere needs its path, as in ./%s", name, path, name),
		kind:  ErrNotFound,
		cause: fs.ErrNotExist,
	}
}

func searchPath(environ []string) string {
	for _, kv := range environ {
		if path, ok := strings.CutPrefix(kv, "PATH="); ok {
			return path
		}
	}
	return defaultPath
}

// runnable returns nil where execve(2) may run file, which is there. What it
// contains shows only when it is run.
func runnable(file string, info fs.FileInfo) error {
	switch {
	case info.IsDir():
		return notRunnable(file, unix.EISDIR, "it is a directory")
	case !info.Mode().IsRegular():
		return notRunnable(file, unix.EACCES, "it is not a regular file")
	}
	switch err := unix.Faccessat(unix.AT_FDCWD, file, unix.X_OK, unix.AT_EACCESS); err {
	case nil:
		return nil
	case unix.EACCES:
		return notRunnable(file, err, "it is not executable; \"chmod +x\" makes it so, unless its file system is mounted noexec")
	default:
		return notRunnable(file, err, err.Error())
	}
}

// missing explains err, which [os.Stat] returned for file. Like env(1) it takes
// only a file that does not exist for one that was not found.
func missing(file string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return notRunnable(file, err, causeText(err))
	}
	text := "there is no file " + file + " to run"
	if !strings.HasPrefix(file, "/") {
		if dir, err := os.Getwd(); err == nil {
			text += " (in " + dir + ")"
		}
	}
	return &commandError{text: text, kind: ErrNotFound, cause: err}
}

func notRunnable(file string, cause error, why string) error {
	return &commandError{text: "cannot run " + file + ": " + why, kind: ErrNotRunnable, cause: cause}
}

// causeText returns the text of the system's error in err, without the path that
// err names as well.
func causeText(err error) string {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	return err.Error()
}
