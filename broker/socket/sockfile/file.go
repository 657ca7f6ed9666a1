// Package sockfile handles the files of Unix sockets: it locks their paths, removes those of dead processes, binds
// sockets to them, sets mode and owners, and keeps a backup link by which a removed path can be made again.
//
// It may change files only if they are those of the caller's sockets, or sockets at which no process answers; it knows
// a file by device and inode, because any file may be at a path a moment later. It never listens, and never touches
// what is queued at a socket.
package sockfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

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

// Remove removes the file if it still is at its path, and its backup link. Between the check and the removal, a process
// that may write to the directory could put another file there, which it could remove as well. The kernel offers no way
// to close that gap.
func (f *File) Remove() error {
	dir, err := f.openDir()
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
		dir, err = byPath, nil
	}
	for _, path := range []string{f.path, backupPath(f.path)} {
		if err == nil && dir.has(f, path) {
			err = dir.remove(path)
		}
	}
	dir.close()
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

// A socketDir is the directory of a file. An operation by a name happens in that directory, even if another process
// exchanges it, or one above it, for another.
type socketDir int

// byPath stands for whatever directory is at the path, and takes no descriptor.
const byPath socketDir = unix.AT_FDCWD

// openDir opens the directory of f; the caller must close it. The error is [fs.ErrNotExist] if f is not in that
// directory, neither at its path nor at its backup.
func (f *File) openDir() (socketDir, error) {
	n, err := unix.Open(filepath.Dir(f.path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("open", err)
	}
	dir := socketDir(n)
	if !dir.has(f, f.path) && !dir.has(f, backupPath(f.path)) {
		dir.close()
		return -1, fs.ErrNotExist
	}
	return dir, nil
}

func (d socketDir) close() { _ = unix.Close(int(d)) } // EBADF for byPath, and if there is none

// name returns what the file at path is called in the directory.
func (d socketDir) name(path string) string {
	if d == byPath {
		return path
	}
	return filepath.Base(path)
}

func (d socketDir) find(path string) (*File, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(d), d.name(path), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, os.NewSyscallError("fstatat", err)
	}
	return fileOf(path, &st), nil
}

// has reports whether f is at path in the directory.
func (d socketDir) has(f *File, path string) bool {
	now, err := d.find(path)
	return err == nil && now.Same(f)
}

func (d socketDir) remove(path string) error {
	return os.NewSyscallError("unlinkat", unix.Unlinkat(int(d), d.name(path), 0))
}

// Exposure says, in words for the log, why another user can replace the files in dir. It is empty if none can, as far
// as dir itself shows.
func Exposure(dir string) string {
	const help = "use a directory that root or the broker's user owns, and nobody else may write to"
	var st unix.Stat_t
	switch err := unix.Stat(dir, &st); {
	case err != nil:
		return "" // the files are gone with it
	case st.Uid != 0 && st.Uid != uint32(os.Geteuid()):
		return fmt.Sprintf("%s belongs to uid %d, who can replace what is in it: %s", dir, st.Uid, help)
	case st.Mode&unix.S_IWOTH != 0 && st.Mode&unix.S_ISVTX == 0:
		return fmt.Sprintf("everybody may write to %s, and can replace what is in it: %s", dir, help)
	}
	return ""
}

// The file of a Unix socket has a second link beside it, ".NAME.fdbroker", by which a removed path can be made again.
// The kernel makes no link to a file that has none left, not even by a descriptor of it. Some files have no backup
// link: if the filesystem has no links, or if the file was given to another user and fs.protected_hardlinks is set.

func backupPath(path string) string {
	dir, base := filepath.Split(path)
	return dir + "." + base + ".fdbroker"
}

// HasBackup reports whether f has a backup link, as far as f knows.
func (f *File) HasBackup() bool { return f.backup }

// Backup returns the path of the backup link of f, if that still leads to f.
func (f *File) Backup() (path string, ok bool) {
	path = backupPath(f.path)
	return path, f.backup && byPath.has(f, path)
}

// KeepBackup makes the backup link, unless it is there, and reports whether it is. It removes that of another
// socket, because the path that it stood for is f's now.
func (f *File) KeepBackup() bool {
	f.backup = false
	dir, err := f.openDir()
	if err != nil {
		return false
	}
	defer dir.close()
	backup := backupPath(f.path)
	if f.backup = dir.has(f, backup); f.backup {
		return true
	}
	if b, err := dir.find(backup); err == nil && b.kind == unix.S_IFSOCK {
		_ = dir.remove(backup)
	}
	if unix.Linkat(int(dir), dir.name(f.path), int(dir), dir.name(backup), 0) != nil {
		return false
	}
	if f.backup = dir.has(f, backup); !f.backup { // another process has replaced the file
		_ = dir.remove(backup)
	}
	return f.backup
}

// Watch adds f to an inotify instance, which then tells if its path is removed, replaced or renamed: all of that
// changes the number of the file's links, or moves one. Other changes in the directory tell nothing. It returns the
// watch.
func (f *File) Watch(inotify int) (watch int, err error) {
	link := f.path
	if f.backup {
		link = backupPath(link) // the same file, also there if the path is gone already
	}
	return unix.InotifyAddWatch(inotify, link, unix.IN_ATTRIB|unix.IN_MOVE_SELF|unix.IN_DELETE_SELF|unix.IN_DONT_FOLLOW)
}
