//go:build linux

package launch

import (
	"bytes"
	"errors"
)

// Direct returns the file that execvp(3) would execute for a command without sockets,
// in the PATH of environ, and the words to give it: a text without "#!" line is
// a script for /bin/sh. [ExitCode] has the exit status for the error.
func Direct(command, environ []string) (path string, argv []string, err error) {
	if len(command) == 0 || command[0] == "" {
		return "", nil, errors.New("no command to run")
	}
	if path, err = lookup(command[0], environ); err != nil {
		return "", nil, err
	}
	start := head(path)
	if len(start) == 0 || bytes.HasPrefix(start, []byte("#!")) || isBinary(start) || bytes.HasPrefix(start, []byte("\x7fELF")) {
		return path, command, nil
	}
	return shell, append([]string{shell, path}, command[1:]...), nil
}
