package launch

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// shell runs files without "#!" line: _PATH_BSHELL of execvp(3).
const shell = "/bin/sh"

// Direct returns the file to execute for a command without sockets, as execvp(3) finds it in
// the PATH of environ, and the words to give it. The caller may execute that many times, while
// the command's file is replaced by another program or script. A text without "#!" line is run
// by /bin/sh. A missing interpreter is an error. [ExitCode] has the exit status for the error.
func Direct(command, environ []string) (path string, argv []string, err error) {
	if path, err = Find(command, environ); err != nil {
		return "", nil, err
	}
	start := head(path)
	if _, script := interpreterOf(start); len(start) == 0 || script || isBinary(start) || bytes.HasPrefix(start, []byte("\x7fELF")) {
		return path, command, nil
	}
	// Like execvp(3), sh looks at the file each time, and reads it only if the kernel does not know its format.
	return shell, append([]string{shell, "-c", `exec "$0" "$@"`, path}, command[1:]...), nil
}

// Find returns the file that execvp(3) would execute for a command, in the PATH of environ, or why it cannot be
// executed, as far as that is known before the exec. [ExitCode] has the exit status for the error.
func Find(command, environ []string) (path string, err error) {
	if len(command) == 0 || command[0] == "" {
		return "", errors.New("no command to run")
	}
	if path, err = lookup(command[0], environ); err != nil {
		return "", err
	}
	return path, checkInterpreter(path)
}

// checkInterpreter returns an error if file is a script whose interpreter cannot be executed.
func checkInterpreter(file string) error {
	start := head(file)
	interpreter, _ := interpreterOf(start)
	if interpreter == "" {
		return nil
	}
	info, err := os.Stat(interpreter)
	if errors.Is(err, fs.ErrNotExist) {
		return notRunnable(file, unix.ENOENT, missingLoader(start))
	}
	if err == nil {
		err = runnable(interpreter, info)
	}
	if err != nil {
		return notRunnable(file, err, "the interpreter that its first line names cannot be run: "+err.Error())
	}
	return nil
}

// defaultPath is searched if the environment has no PATH.
const defaultPath = "/usr/local/bin:/usr/bin:/bin"

// lookup finds the file that execvp(3) would run for name: name itself if it contains a slash, else the first runnable
// file of that name in PATH. If none is runnable, the error is that of the first file that is there.
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
		text:  fmt.Sprintf("there is no command %q in PATH (%s); a command elsewhere needs its path, as in ./%s", name, path, name),
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

// runnable returns nil if execve(2) may run file, which exists. It does not look at the content.
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
