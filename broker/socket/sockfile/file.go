// Package sockfile handles the files of Unix sockets: it locks their paths, removes those of dead processes, binds
// sockets to them, sets mode and owners, and keeps a backup link by which a removed path can be made again.
//
// It may change files only if they are those of the caller's sockets, or sockets at which no process answers; it knows
// a file by device and inode, because any file may be at a path a moment later. It never listens, and never touches
// what is queued at a socket.
package sockfile

import (
	"errors"
	"io/fs"
	"os"

	"github.com/fdbroker/fdbroker/broker/socket/sockdiag"
	"golang.org/x/sys/unix"
)

// FileID says which file something is. The zero FileID is no file.
type FileID = sockdiag.FileID

// A File is the file of a Unix socket: its path, and the identity by which it is known.
type File struct {
	path   string
	id     FileID
	kind   uint32 // S_IFSOCK and so on, if it was found at its path
	backup bool   // it has a backup link
}

// New returns the file with that identity, which is or was at path.
func New(path string, id FileID) *File { return &File{path: path, id: id} }

// Find returns the file at path. It does not follow a symbolic link.
func Find(path string) (*File, error) {
	return byPath.find(path)
}

// IDOf returns the identity of the file at path, and the zero FileID if there is none. It does not follow a symbolic
// link.
func IDOf(path string) FileID {
	if f, err := Find(path); err == nil {
		return f.id
	}
	return FileID{}
}

func fileOf(path string, st *unix.Stat_t) *File {
	return &File{path: path, id: sockdiag.FileIDOf(st), kind: st.Mode & unix.S_IFMT}
}

// ID returns the identity of f.
func (f *File) ID() FileID { return f.id }

// Path returns the path of f.
func (f *File) Path() string { return f.path }

// Same reports whether f and g are one file, at whatever paths.
func (f *File) Same(g *File) bool { return f.id == g.id }

// Remove removes the file if it still is at its path. Between the check and the removal, a process that may write to
// the directory could put another file there, which it could remove as well. The kernel offers no way to close that
// gap.
func (f *File) Remove() error {
	dir, err := f.openDir()
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
		dir, err = byPath, nil
	}
	if err == nil {
		defer dir.close()
	}
	if err == nil && dir.has(f, f.path) {
		err = dir.remove(f.path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// MoveTo renames f, if it still is at its path, and never onto another file. It returns the file at its new path; nil,
// nil: it is not there any more.
func (f *File) MoveTo(path string) (*File, error) {
	if !byPath.has(f, f.path) {
		return nil, nil
	}
	if err := unix.Renameat2(unix.AT_FDCWD, f.path, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE); err != nil {
		return nil, os.NewSyscallError("renameat2", err)
	}
	return New(path, f.id), nil
}
