//go:build linux

package launch

import (
	"bytes"
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Direct returns the file that is to be executed for a command without sockets, as
// execvp(3) finds it in the PATH of environ, and the words to give it. It may be executed
// again and again, and the command's file replaced meanwhile by another program or script.
// A text without "#!" line is a script for /bin/sh, as long as it is one. That the
// interpreter of a script is missing is an error already. [ExitCode] has the exit status
// for the error.
func Direct(command, environ []string) (path string, argv []string, err error) {
	if path, err = Find(command, environ); err != nil {
		return "", nil, err
	}
	start := head(path)
	if _, script := interpreterOf(start); len(start) == 0 || script || isBinary(start) || bytes.HasPrefix(start, []byte("\x7fELF")) {
		return path, command, nil
	}
	// As execvp(3) does, sh looks at the file each time, and reads it only where the kernel
	// does not know it.
	return shell, append([]string{shell, "-c", `exec "$0" "$@"`, path}, command[1:]...), nil
}

// Find returns the file that execvp(3) would execute for a command, in the PATH of environ,
// or why it cannot be executed, as far as that shows beforehand. [ExitCode] has the exit
// status for the error.
func Find(command, environ []string) (path string, err error) {
	if len(command) == 0 || command[0] == "" {
		return "", errors.New("no command to run")
	}
	if path, err = lookup(command[0], environ); err != nil {
		return "", err
	}
	return path, checkInterpreter(path)
}

// checkInterpreter returns an error where file is a script and the interpreter that it
// names cannot be executed.
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
