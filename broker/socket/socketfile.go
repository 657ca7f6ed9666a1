//go:build linux

package socket

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// A socketFile is the file of a path-bound socket: what is there, and which
// inode, so that only that is ever removed.
type socketFile struct {
	path  string
	dev   uint64
	ino   uint64
	spare bool // it has a second link
}

// findFile returns the file at path, which it does not follow.
func findFile(path string) (*socketFile, fs.FileMode, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, 0, os.NewSyscallError("lstat", err)
	}
	return fileOf(path, &st), fileType(&st), nil
}

func fileOf(path string, st *unix.Stat_t) *socketFile {
	return &socketFile{path: path, dev: uint64(st.Dev), ino: st.Ino}
}

func fileType(st *unix.Stat_t) fs.FileMode {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		return fs.ModeSocket
	case unix.S_IFDIR:
		return fs.ModeDir
	case unix.S_IFLNK:
		return fs.ModeSymlink
	case unix.S_IFREG:
		return 0
	}
	return fs.ModeIrregular
}

// isDiag reports whether f is the file in a UNIX_DIAG_VFS attribute. The kernel
// gives its own device number there (20 bits of minor).
func (f *socketFile) isDiag(attr []byte) bool {
	if f == nil || len(attr) < 8 {
		return false
	}
	ino, dev := binary.NativeEndian.Uint32(attr), binary.NativeEndian.Uint32(attr[4:])
	return ino == uint32(f.ino) && dev>>20 == unix.Major(f.dev) && dev&(1<<20-1) == unix.Minor(f.dev)
}

// A fileOwner is what the options mode, user and group say.
type fileOwner struct {
	mode     *os.FileMode
	uid, gid int // -1 leaves it
}

func ownerOf(s Spec) (fileOwner, error) {
	o := s.options()
	owner := fileOwner{o.Mode, -1, -1}
	if o.User != "" {
		id, err := ownerID(o.User, lookupUser)
		if err != nil {
			return owner, &optionError{"user", err}
		}
		owner.uid = int(id)
	}
	if o.Group != "" {
		id, err := ownerID(o.Group, lookupGroup)
		if err != nil {
			return owner, &optionError{"group", err}
		}
		owner.gid = int(id)
	}
	return owner, nil
}

// beforeBind sees to it that from its first moment the file lets in nobody whom
// the option mode keeps out: bind takes the mode from the socket (less the
// umask), and a socket for packets can be sent to as soon as it is bound. Until
// the file has its owners only the owner's part of the mode is given.
func (o fileOwner) beforeBind(fd int) error {
	if o.mode == nil {
		return nil
	}
	if err := unix.Fchmod(fd, uint32(o.mode.Perm()&0o700)); err != nil {
		return &optionError{"mode", os.NewSyscallError("fchmod", err)}
	}
	return nil
}

// afterBind gives the new file at path, of the socket fd, its owners and then its
// mode. On an error it has removed the file, unless somebody else put it there.
func (o fileOwner) afterBind(fd int, path string) (*socketFile, error) {
	own, err := openBound(fd, path)
	if err != nil {
		return nil, err
	}
	defer own.close()
	if o == (fileOwner{nil, -1, -1}) {
		return own.socketFile, nil
	}
	if err := own.checkMade(); err != nil {
		return nil, err
	}
	if err := o.apply(own); err != nil {
		return nil, errors.Join(err, own.remove())
	}
	return own.socketFile, nil
}

// apply changes the file by its descriptor: by its path, a symbolic link put there
// could lead to another one.
func (o fileOwner) apply(own *boundFile) error {
	if o.uid >= 0 || o.gid >= 0 {
		if err := unix.Fchownat(own.fd, "", o.uid, o.gid, unix.AT_EMPTY_PATH); err != nil {
			return &optionError{o.chownOption(), os.NewSyscallError("fchownat", err)}
		}
	}
	if o.mode != nil {
		// fchmod refuses an O_PATH descriptor; its link in /proc does not (open(2)).
		if err := unix.Chmod("/proc/self/fd/"+strconv.Itoa(own.fd), uint32(o.mode.Perm())); err != nil {
			return &optionError{"mode", os.NewSyscallError("chmod", err)}
		}
	}
	return nil
}

func (o fileOwner) chownOption() string {
	if o.uid >= 0 {
		return "user"
	}
	return "group"
}
