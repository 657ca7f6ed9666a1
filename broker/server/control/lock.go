//go:build linux

package control

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/fdbroker/fdbroker/broker/socket"
	"golang.org/x/sys/unix"
)

// FileID is a file, by its identity; the zero value is no file.
type FileID struct{ Dev, Ino uint64 }

// lockFor takes the lock of the control socket at path.
func lockFor(path string) (*os.File, error) {
	name := path + ".lock"
	for {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			if lerr := socket.CheckLock(name); lerr != nil {
				return nil, notLocked(path, lerr)
			}
			return nil, fmt.Errorf("cannot open the lock of the control socket: %w; name another path with --socket", err)
		}
		locked, err := flock(f)
		if err != nil {
			_ = f.Close()
			return nil, err
		}
		if !locked {
			defer f.Close()
			if err := socket.CheckLock(name); err != nil {
				return nil, notLocked(path, err)
			}
			return nil, fmt.Errorf("another broker%s has the control socket %s; stop it, or name another path with --socket", writtenPID(f), path)
		}
		// Another process, which had it locked, may have removed it between open and flock.
		id, err := idOf(name)
		if opened, oerr := idOfFile(f); err == nil && oerr == nil && id == opened {
			_ = f.Truncate(0)
			_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
			return f, nil
		}
		_ = f.Close()
	}
}

func notLocked(path string, why error) error {
	return fmt.Errorf("cannot lock the control socket %s: %w (--socket names another path)", path, why)
}

func flock(f *os.File) (locked bool, err error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return false, err
	}
	var lerr error
	if err := rc.Control(func(fd uintptr) { lerr = unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB) }); err != nil {
		return false, err
	}
	if lerr == unix.EWOULDBLOCK {
		return false, nil
	}
	return lerr == nil, os.NewSyscallError("flock", lerr)
}

// writtenPID returns ", pid N," as the process that has the lock has written it.
func writtenPID(f *os.File) string {
	b := make([]byte, 16)
	n, _ := f.ReadAt(b, 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil {
		return ""
	}
	return fmt.Sprintf(", pid %d,", pid)
}

// unlock removes the lock file while it is still locked, so that no other process can
// hold a lock on the file that is being removed.
func unlock(f *os.File) {
	_ = os.Remove(f.Name())
	_ = f.Close()
}

func idOf(path string) (FileID, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return FileID{}, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	return FileID{uint64(st.Dev), st.Ino}, nil
}

func idOfFile(f *os.File) (FileID, error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return FileID{}, err
	}
	var st unix.Stat_t
	var serr error
	err = rc.Control(func(fd uintptr) { serr = unix.Fstat(int(fd), &st) })
	return FileID{uint64(st.Dev), st.Ino}, errors.Join(err, os.NewSyscallError("fstat", serr))
}
