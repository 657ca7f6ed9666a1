package sockfile

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/fdbroker/fdbroker/broker/socket/holders"
	"github.com/fdbroker/fdbroker/broker/socket/sockdiag"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// Bind binds fd, a Unix socket which it borrows, to path, after it has removed a socket at which no process answers. No
// user can connect before the file has its mode and owners. On an error there is no file of the socket. The path should
// be locked: see [LockFor].
func Bind(fd *scmrights.FD, path string, o Owner, c ClearConfig) (file *File, err error) {
	err = sockdiag.Control(fd, func(sock int) error {
		if err := o.beforeBind(sock); err != nil {
			return err
		}
		spare, err := unix.FcntlInt(uintptr(sock), unix.F_DUPFD_CLOEXEC, 0) // the number that give needs
		if err != nil {
			return os.NewSyscallError("fcntl", err)
		}
		err = bindCleared(sock, path, c)
		_ = unix.Close(spare)
		if err != nil {
			return err
		}
		if file, err = o.Give(sock, path, true); err != nil && file != nil {
			err, file = errors.Join(err, file.Remove()), nil
		}
		return err
	})
	return file, err
}

func bindCleared(sock int, path string, c ClearConfig) error {
	err := BindAddress(sock, path)
	if errors.Is(err, unix.EADDRINUSE) {
		if err := Clear(path, c); err != nil {
			return err
		}
		err = BindAddress(sock, path)
	}
	return explain(path, err)
}

// BindAddress binds a Unix socket to an address that is free, a path or an abstract name.
func BindAddress(sock int, address string) error {
	if err := spec.CheckPath(address); err != nil {
		return spec.Problemf(unix.ENAMETOOLONG, "%v", err)
	}
	return os.NewSyscallError("bind", unix.Bind(sock, &unix.SockaddrUnix{Name: address}))
}

// explain adds to an error of making a file at path, or beside it, how to help it.
func explain(path string, err error) error {
	dir := filepath.Dir(path)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return spec.Denied(err, "create a socket in %s", dir)
	case errors.Is(err, fs.ErrNotExist):
		return spec.Problemf(err, "there is no directory %s", dir)
	case errors.Is(err, unix.ENOTDIR):
		return spec.Problemf(err, "%s is not a directory", dir)
	case errors.Is(err, unix.EADDRINUSE):
		return spec.Problemf(err, "somebody else made a file of that path at once; try again")
	}
	return err
}

// ErrNotSocket says that a file which is no socket is at a path.
var ErrNotSocket = errors.New("not a socket")

// ClearConfig says how to look for a process that answers at a path.
type ClearConfig struct {
	Type        int  // of the socket: SOCK_STREAM and so on
	SkipHolders bool // if there is one, do not search all processes for it
}

// Clear removes what is at path if that is a socket at which no process answers. An error names the obstacle: it is an
// EADDRINUSE, and an [ErrNotSocket] if that is no socket. The path must be locked.
func Clear(path string, c ClearConfig) error {
	file, err := Find(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // just gone
	case err != nil:
		return err
	case file.kind != unix.S_IFSOCK:
		return spec.Problemf(errors.Join(unix.EADDRINUSE, ErrNotSocket),
			"%s exists and is %s, not a socket; remove it or choose another path", path, file.kindName())
	}
	switch live, err := file.isLive(c); {
	case errors.Is(err, fs.ErrPermission):
		return spec.Denied(err, "ask whether anybody answers at the socket %s", path)
	case err != nil:
		return err
	case live && c.SkipHolders:
		return unix.EADDRINUSE
	case live:
		return holders.OfUnix(path, file.id)
	}
	if err = file.Remove(); errors.Is(err, fs.ErrPermission) {
		return spec.Denied(err, "remove %s, a socket at which nobody answers", path)
	}
	return err
}

// isLive reports whether a process has the socket of the file. The kernel tells of the sockets in this network
// namespace without their noticing. For those in others it takes an attempt: to a listener that is a client that goes
// away at once.
func (f *File) isLive(c ClearConfig) (bool, error) {
	if byFile, _ := sockdiag.Unix(f.path, f.id); len(byFile) > 0 {
		return true, nil
	}
	fd, err := unix.Socket(unix.AF_UNIX, c.Type|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return false, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	switch err := unix.Connect(fd, &unix.SockaddrUnix{Name: f.path}); err {
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

func (f *File) kindName() string {
	kinds := map[uint32]string{unix.S_IFDIR: "directory", unix.S_IFLNK: "symbolic link", unix.S_IFREG: "regular file"}
	return "a " + cmp.Or(kinds[f.kind], "special file")
}
