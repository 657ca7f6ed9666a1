//go:build linux

package socket

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/scmrights"
)

// siocUnixFile is SIOCUNIXFILE (linux/un.h), which opens the file of a Unix socket, as
// O_PATH and close-on-exec. It takes CAP_NET_ADMIN, as root has it as a rule.
const siocUnixFile = 0x89e0

// A boundFile is the file of a Unix socket that this process has, with a descriptor of
// it. What is at a path may be another file at any time: who owns a directory on the
// way can exchange it, or the file.
type boundFile struct {
	*socketFile
	fd   int    // O_PATH
	uid  uint32 // who owns the file
	sure bool   // the kernel opened it by the socket
}

// openBound opens the file of a Unix socket that is bound to path; the caller must close
// it. It is an error if that is not what is at path.
func openBound(sock int, path string) (*boundFile, error) {
	at, kind, err := findFile(path)
	if err != nil {
		return nil, err
	}
	if kind != fs.ModeSocket {
		return nil, &problem{fmt.Sprintf("somebody else put %s at %s", kindName(kind), path), unix.EADDRINUSE, nil}
	}
	file, err := openFileOf(sock, path)
	if err != nil {
		return nil, err
	}
	if !file.same(at) || !file.sure && file.isOthers(sock) {
		file.close()
		return nil, replaced(path)
	}
	return file, nil
}

// openFileOf opens the file of a Unix socket or, where the kernel does not let this
// process do that, what is at path. The caller must close it.
func openFileOf(sock int, path string) (*boundFile, error) {
	fd, err := unix.IoctlRetInt(sock, siocUnixFile)
	sure := err == nil
	if !sure {
		fd, err = unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, os.NewSyscallError("open", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("fstat", err)
	}
	return &boundFile{fileOf(path, &st), fd, st.Uid, sure}, nil
}

func (f *boundFile) close() { _ = unix.Close(f.fd) }

// isOthers reports whether the file is known to be another socket's. That it is sock's
// cannot be known in this way everywhere: on some filesystems, such as overlayfs, the
// kernel's number of a file is not that of stat(2).
func (f *boundFile) isOthers(sock int) bool {
	var st unix.Stat_t
	if err := unix.Fstat(sock, &st); err != nil {
		return true
	}
	byFile, _ := unixSockets(f.path, f.socketFile)
	return len(byFile) > 0 && !slices.ContainsFunc(byFile, func(d diagSocket) bool { return d.inode == uint32(st.Ino) })
}

// checkMade returns an error where this process cannot have made the file.
func (f *boundFile) checkMade() error {
	if f.sure || f.uid == uint32(os.Geteuid()) {
		return nil
	}
	return replaced(f.path)
}

func replaced(path string) error {
	return &problem{"somebody else replaced " + path, unix.EADDRINUSE, nil}
}

// SetFile gives the file of a Unix socket of this user, bound to path, that group, if
// it is not nil, and then that mode. It returns the device and the inode of the file,
// by which it is known, also with an error where the socket's file is there. Nothing but
// the file of that very socket is ever changed: it is an error if something else is at
// path. SetFile borrows fd.
func SetFile(fd *scmrights.FD, path string, mode os.FileMode, gid *int) (dev, inode uint64, err error) {
	owner := fileOwner{&mode, -1, -1}
	if gid != nil {
		owner.gid = *gid
	}
	err = control(fd, func(n int) error {
		own, err := openBound(n, path)
		if err != nil {
			return err
		}
		defer own.close()
		if err := own.checkMade(); err != nil {
			return err
		}
		dev, inode = own.dev, own.ino
		err = owner.apply(own)
		if oe, ok := errors.AsType[*optionError](err); ok {
			return oe.err
		}
		return err
	})
	return dev, inode, err
}
