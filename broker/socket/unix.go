//go:build linux

package socket

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/scmrights"
)

// openAbstract opens a Unix socket that has a name and no file.
func openAbstract(n *network, s Spec) (*Socket, error) {
	fd, err := newSocket(n, s, unix.AF_UNIX)
	if err != nil {
		return nil, err
	}
	backlog := 0
	err = control(fd, func(num int) error {
		if err := bindUnix(num, s.Address); err != nil {
			return err
		}
		backlog, err = listen(n, s, num)
		return err
	})
	if err != nil {
		_ = fd.Close()
		if errors.Is(err, unix.EADDRINUSE) && !n.brief {
			holders := holdersOfUnix(s.Address, nil)
			err = &problem{holders.taken(), err, holders.seen}
		}
		return nil, err
	}
	return newSocketOf(s, s.Address, fd, backlog, nil)
}

// openPath opens a Unix socket that has a path. From before the path exists
// until it listens, the path is locked: to another process that finds it, a
// socket which does not listen yet looks like one that somebody left behind.
func openPath(n *network, s Spec) (*Socket, error) {
	lock, err := lockPath(s.Address)
	if err != nil {
		return nil, err
	}
	defer lock.unlock()
	fd, err := newSocket(n, s, unix.AF_UNIX)
	if err != nil {
		return nil, err
	}
	file, backlog, err := setUpPath(n, s, fd)
	if err != nil {
		_ = fd.Close()
		return nil, err
	}
	return newSocketOf(s, s.Address, fd, backlog, file)
}

// setUpPath binds fd and makes it listen. On an error there is no path.
func setUpPath(n *network, s Spec, fd *scmrights.FD) (file *socketFile, backlog int, err error) {
	owner, err := ownerOf(s)
	if err != nil {
		return nil, 0, err
	}
	err = control(fd, func(num int) error {
		if err := owner.beforeBind(num); err != nil {
			return err
		}
		room, err := unix.FcntlInt(uintptr(num), unix.F_DUPFD_CLOEXEC, 0) // for what afterBind opens
		if err != nil {
			return os.NewSyscallError("fcntl", err)
		}
		err = bindPath(n, num, s.Address)
		_ = unix.Close(room)
		if err != nil {
			return err
		}
		if file, err = owner.afterBind(num, s.Address); err != nil {
			return err
		}
		if backlog, err = listen(n, s, num); err != nil {
			return errors.Join(err, file.remove())
		}
		file.keepSpare()
		return nil
	})
	return file, backlog, err
}

// bindPath binds a socket to path, and clears it before if it must.
func bindPath(n *network, fd int, path string) error {
	err := bindUnix(fd, path)
	if errors.Is(err, unix.EADDRINUSE) {
		if err := clearPath(n, path); err != nil {
			return err
		}
		err = bindUnix(fd, path)
	}
	if err != nil {
		return explainPath(path, err)
	}
	return nil
}

func bindUnix(fd int, address string) error {
	if err := checkPathLength(address); err != nil {
		return &problem{err.Error(), unix.ENAMETOOLONG, nil}
	}
	return os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrUnix{Name: address}))
}

// explainPath adds to an error of making a file at path, or beside it, what an
// operator wants to know.
func explainPath(path string, err error) error {
	dir := filepath.Dir(path)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return &problem{deniedTo("create a socket in " + dir), err, nil}
	case errors.Is(err, fs.ErrNotExist):
		return &problem{fmt.Sprintf("there is no directory %s", dir), err, nil}
	case errors.Is(err, unix.ENOTDIR):
		return &problem{fmt.Sprintf("%s is not a directory", dir), err, nil}
	case errors.Is(err, unix.EADDRINUSE):
		return &problem{"somebody else made a file of that path at once; try again", err, nil}
	}
	return err
}
