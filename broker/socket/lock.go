//go:build linux

package socket

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/scmrights"
)

const (
	// lockTime bounds how long Open waits for another process that has a path
	// locked: that one needs a millisecond.
	lockTime = 5 * time.Second
	// lockTurn is the pause between two attempts.
	lockTurn = 2 * time.Millisecond
)

// A pathLock is a lock file beside the path of a Unix socket, "PATH.lock", held
// with flock(2) while the path is looked at and bound. It keeps two brokers from
// taking a stale path from each other. Nobody else can open the file, and it is
// gone afterwards; one that a crash left behind is used again.
type pathLock struct {
	file *socketFile
	fd   *scmrights.FD
}

// lockPath locks path; the caller must unlock it.
func lockPath(path string) (*pathLock, error) {
	for deadline := time.Now().Add(lockTime); ; {
		lock, err := tryLock(path, path+".lock")
		if lock != nil || err != nil {
			return lock, err
		}
		if time.Now().After(deadline) {
			return nil, &problem{fmt.Sprintf("another process has had %s.lock locked for %v", path, lockTime), unix.EWOULDBLOCK, nil}
		}
		time.Sleep(lockTurn)
	}
}

// tryLock returns nil without an error where another process has the lock.
func tryLock(path, name string) (*pathLock, error) {
	n, err := unix.Open(name, unix.O_RDONLY|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if err != nil {
		if lerr := CheckLock(name); lerr != nil {
			return nil, &problem{lerr.Error(), err, nil}
		}
		if _, _, serr := findFile(name); serr == nil && err != unix.EMFILE && err != unix.ENFILE {
			return nil, &problem{fmt.Sprintf("its lock file %s cannot be opened: %v", name, err), err, nil}
		}
		return nil, explainPath(path, os.NewSyscallError("open", err))
	}
	fd := scmrights.NewFD(n)
	lock, err := flock(name, fd)
	if lock == nil {
		_ = fd.Close()
		if lerr := CheckLock(name); lerr != nil && err == nil {
			err = &problem{lerr.Error(), unix.EWOULDBLOCK, nil}
		}
	}
	return lock, err
}

// CheckLock returns an error where the lock file at path, which cannot be had, belongs to
// another user than root and this one. It need be no broker's: in a directory in which
// everybody may make files, anybody can make it, and keep it locked for ever.
func CheckLock(path string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil || st.Uid == 0 || st.Uid == uint32(os.Geteuid()) {
		return nil // without a file there is nobody
	}
	return fmt.Errorf("its lock file %s belongs to uid %d, which is neither root nor the broker's user: stop that user's broker if there is one, and remove the file, or choose a path in a directory where nobody else may make files", path, st.Uid)
}

// flock locks fd, which it borrows, and returns nil where that is not possible
// now, or not worth anything: whoever unlocks removes the file, and a lock on
// what is no longer at its name excludes nobody.
func flock(name string, fd *scmrights.FD) (lock *pathLock, err error) {
	err = control(fd, func(n int) error {
		switch err := unix.Flock(n, unix.LOCK_EX|unix.LOCK_NB); err {
		case nil:
		case unix.EWOULDBLOCK, unix.EINTR:
			return nil
		default:
			return os.NewSyscallError("flock", err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(n, &st); err != nil {
			return os.NewSyscallError("fstat", err)
		}
		mine := fileOf(name, &st)
		now, _, err := findFile(name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !now.same(mine) {
			return nil
		}
		if err == nil {
			lock = &pathLock{mine, fd}
		}
		return err
	})
	return lock, err
}

// unlock removes the lock file, then lets go of the lock.
func (l *pathLock) unlock() {
	_ = l.file.remove()
	_ = l.fd.Close()
}
