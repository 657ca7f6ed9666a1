package sockfile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"golang.org/x/sys/unix"
)

// MakeDirFor makes the missing directories above path, with that mode whatever the umask is. They belong to this
// process's user, as those of systemd's DirectoryMode= do: a user to whom the directory belonged could replace the
// socket. It changes no directory that is there already.
//
// It goes down from the root by descriptors. A directory that is there may be a symbolic link to one, as in any path.
// One that it has made is entered only if it is no link and this user's, so nothing that another process puts in its
// place is given the mode.
func MakeDirFor(path string, mode os.FileMode) error {
	dir := filepath.Dir(path)
	if st := new(unix.Stat_t); unix.Stat(dir, st) == nil {
		return nil // or bind says that it is no directory
	}
	at, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	var name strings.Builder
	for part := range strings.SplitSeq(strings.Trim(dir, "/"), "/") {
		name.WriteString("/" + part)
		next, err := enterOrMake(at, part, mode)
		_ = unix.Close(at)
		if err != nil {
			return explainDir(name.String(), err)
		}
		at = next
	}
	return os.NewSyscallError("close", unix.Close(at))
}

// enterOrMake opens a directory in that of at, which it borrows, and makes it first if nothing is there. The caller must
// close it.
func enterOrMake(at int, name string, mode os.FileMode) (int, error) {
	const there = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	dir, err := unix.Openat(at, name, there, 0)
	if err != unix.ENOENT {
		return dir, os.NewSyscallError("openat", err)
	}
	// Nobody else may enter it until it has its mode.
	switch err := unix.Mkdirat(at, name, 0o700); err {
	case nil:
	case unix.EEXIST: // just made by another process, or a symbolic link to nothing
		dir, err := unix.Openat(at, name, there, 0)
		return dir, os.NewSyscallError("openat", err)
	default:
		return -1, os.NewSyscallError("mkdirat", err)
	}
	dir, err = unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("openat", err)
	}
	var st unix.Stat_t
	if err = unix.Fstat(dir, &st); err == nil && st.Uid != uint32(os.Geteuid()) {
		err = unix.EEXIST
	}
	if err == nil {
		err = unix.Fchmod(dir, uint32(mode.Perm()))
	}
	if err != nil {
		_ = unix.Close(dir)
		return -1, os.NewSyscallError("fchmod", err)
	}
	return dir, nil
}

func explainDir(dir string, err error) error {
	switch {
	case errors.Is(err, os.ErrPermission):
		return spec.Denied(err, "create the directory %s", dir)
	case errors.Is(err, unix.ENOTDIR):
		return spec.Problemf(err, "%s is not a directory", dir)
	case errors.Is(err, unix.EEXIST):
		return spec.Problemf(err, "somebody else replaced the directory %s", dir)
	case errors.Is(err, unix.ENOENT):
		return spec.Problemf(err, "the directory %s cannot be created: it is a symbolic link to nothing, or was removed at once", dir)
	}
	return spec.Problemf(err, "the directory %s cannot be created: %s", dir, spec.Reason(err))
}
