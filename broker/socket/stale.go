//go:build linux

package socket

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// clearPath removes what is at path if that is a socket at which nobody
// answers, and says otherwise what is in the way. The path must be locked.
func clearPath(n *network, path string) error {
	file, kind, err := findFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // just gone
	case err != nil:
		return err
	case kind != fs.ModeSocket:
		return &problem{fmt.Sprintf("%s exists and is %s, not a socket; remove it or choose another path", path, kindName(kind)), unix.EADDRINUSE, nil}
	}
	switch live, err := inUse(n, path, file); {
	case errors.Is(err, fs.ErrPermission):
		return &problem{deniedTo("ask whether anybody answers at the socket " + path), err, nil}
	case err != nil:
		return err
	case live && n.brief:
		return unix.EADDRINUSE
	case live:
		holders := holdersOfUnix(path, file)
		return &problem{holders.taken(), unix.EADDRINUSE, holders.seen}
	}
	err = file.remove()
	if errors.Is(err, fs.ErrPermission) {
		return &problem{deniedTo(fmt.Sprintf("remove %s, a socket at which nobody answers", path)), err, nil}
	}
	return err
}

// inUse reports whether a process has the socket at path, whose file is file. The
// kernel tells of the sockets of this network namespace, without their noticing;
// for those of others, somebody has to try.
func inUse(n *network, path string, file *socketFile) (bool, error) {
	if byFile, _ := unixSockets(path, file); len(byFile) > 0 {
		return true, nil
	}
	return answers(n, path)
}

// answers reports whether a process has the socket at path and would take a
// connection, or packets. To a listener the question is a client that goes away
// at once.
func answers(n *network, path string) (bool, error) {
	fd, err := unix.Socket(unix.AF_UNIX, n.sotype|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return false, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	switch err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err {
	case unix.ECONNREFUSED, unix.ENOENT:
		return false, nil
	case nil,
		unix.EAGAIN,     // its queue is full
		unix.EPROTOTYPE, // it is of another type
		unix.EPERM:      // it takes packets from one peer only
		return true, nil
	default:
		return false, os.NewSyscallError("connect", err)
	}
}

func kindName(kind fs.FileMode) string {
	switch kind {
	case fs.ModeDir:
		return "a directory"
	case fs.ModeSymlink:
		return "a symbolic link"
	case 0:
		return "a regular file"
	}
	return "a special file"
}
