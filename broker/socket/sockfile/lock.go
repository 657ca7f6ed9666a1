package sockfile

import (
	"cmp"
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/fdbroker/fdbroker/broker/socket/sockdiag"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

const (
	lockTime = 5 * time.Second      // bounds how long LockFor waits; a process usually needs the path for a millisecond
	lockTurn = 2 * time.Millisecond // between two attempts
)

// A Lock is a lock file beside the path of a Unix socket, "PATH.lock", held with flock(2). It keeps two brokers from
// taking a stale path from each other. No other user can open the file. Unlock removes it; one that a crash left behind
// is used again.
type Lock struct {
	file *File
	fd   *scmrights.FD
}

// A LockedError says that another process has a path locked.
type LockedError struct {
	PID int // as that process has recorded it; 0: it has not
}

func (e *LockedError) Error() string { return "another process has the path locked" }

// LockPath returns the path of the lock file of path.
func LockPath(path string) string { return path + ".lock" }

// ID returns the identity of the lock file.
func (l *Lock) ID() FileID { return l.file.ID() }

// LockFor locks path, and waits for another process that has it locked, at most 5 s. The caller must unlock it.
func LockFor(path string) (*Lock, error) {
	for deadline := time.Now().Add(lockTime); ; time.Sleep(lockTurn) {
		lock, err := TryLock(path)
		if _, locked := errors.AsType[*LockedError](err); !locked {
			return lock, err
		}
		if time.Now().After(deadline) {
			return nil, spec.Problemf(unix.EWOULDBLOCK, "another process has had %s.lock locked for %v", path, lockTime)
		}
	}
}

// TryLock locks path; the caller must unlock it. If another process has it locked, the error is a [*LockedError], or
// says that the lock file belongs to another user, which need not run a broker.
func TryLock(path string) (*Lock, error) {
	name := LockPath(path)
	for {
		n, err := unix.Open(name, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return nil, explainLock(path, name, err)
		}
		lock := &Lock{fd: scmrights.NewFD(n)}
		err = lock.take(name)
		if err == nil && lock.file != nil {
			return lock, nil
		}
		_ = lock.fd.Close()
		if err != nil {
			return nil, err
		}
		// The file was removed between open and flock.
	}
}

// take locks the file. It sets l.file only if the file is still at its name: a process that unlocks removes the file,
// and a lock on a removed file excludes no other process.
func (l *Lock) take(name string) error {
	return sockdiag.Control(l.fd, func(n int) error {
		switch err := unix.Flock(n, unix.LOCK_EX|unix.LOCK_NB); err {
		case nil:
		case unix.EWOULDBLOCK, unix.EINTR:
			return cmp.Or(checkForeign(name, unix.EWOULDBLOCK), error(&LockedError{recordedPID(n)}))
		default:
			return os.NewSyscallError("flock", err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(n, &st); err != nil {
			return os.NewSyscallError("fstat", err)
		}
		if mine := fileOf(name, &st); byPath.has(mine, name) {
			l.file = mine
		}
		return nil
	})
}

func explainLock(path, name string, err error) error {
	if ferr := checkForeign(name, err); ferr != nil {
		return ferr
	}
	if _, serr := Find(name); serr == nil && err != unix.EMFILE && err != unix.ENFILE {
		return spec.Problemf(err, "its lock file %s cannot be opened: %v", name, err)
	}
	return explain(path, os.NewSyscallError("open", err))
}

// checkForeign returns an error if the lock file, which err keeps this process from using, belongs to another user than
// root and this one. It need not be a broker's: if every user may make files in the directory, any of them can make it
// and keep it locked for ever.
func checkForeign(name string, err error) error {
	var st unix.Stat_t
	if serr := unix.Lstat(name, &st); serr != nil || st.Uid == 0 || st.Uid == uint32(os.Geteuid()) {
		return nil
	}
	return spec.Problemf(err, "its lock file %s belongs to uid %d, which is neither root nor the broker's user: "+
		"stop that user's broker if there is one, and remove the file, "+
		"or choose a path in a directory in which nobody else may create files", name, st.Uid)
}

// WritePID records this process in the lock file, for [LockedError].
func (l *Lock) WritePID() {
	_ = sockdiag.Control(l.fd, func(n int) error {
		text := []byte(strconv.Itoa(os.Getpid()) + "\n")
		_, err := unix.Pwrite(n, text, 0)
		return errors.Join(err, unix.Ftruncate(n, int64(len(text))))
	})
}

func recordedPID(fd int) int {
	b := make([]byte, 16)
	size, _ := unix.Pread(fd, b, 0)
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b[:max(size, 0)])))
	return pid
}

// Unlock removes the lock file, then gives up the lock.
func (l *Lock) Unlock() {
	_ = l.file.Remove()
	_ = l.fd.Close()
}
