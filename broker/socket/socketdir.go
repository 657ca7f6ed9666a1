//go:build linux

package socket

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A socketDir is the directory that a file is in. What is done there by a name is done
// in that directory, even if somebody exchanges it, or one above it, with another.
type socketDir int

// openDir opens the directory of the file, if it still is what is at its path there, or
// at that of its spare link; the caller must close it. Else the error is [fs.ErrNotExist].
func (f *socketFile) openDir() (socketDir, error) {
	n, err := unix.Open(filepath.Dir(f.path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("open", err)
	}
	dir := socketDir(n)
	if !dir.has(f, f.path) && !dir.has(f, spareOf(f.path)) {
		dir.close()
		return -1, fs.ErrNotExist
	}
	return dir, nil
}

func (d socketDir) close() { _ = unix.Close(int(d)) }

// find is findFile of a path in the directory.
func (d socketDir) find(path string) (*socketFile, fs.FileMode, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(d), filepath.Base(path), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, 0, os.NewSyscallError("fstatat", err)
	}
	return fileOf(path, &st), fileType(&st), nil
}

// has reports whether f is what is at path in the directory.
func (d socketDir) has(f *socketFile, path string) bool {
	now, _, err := d.find(path)
	return err == nil && now.same(f)
}

// link gives the file at one path in the directory another, which is in it as well.
func (d socketDir) link(from, to string) error {
	return os.NewSyscallError("linkat", unix.Linkat(int(d), filepath.Base(from), int(d), filepath.Base(to), 0))
}

// remove removes what is at path in the directory.
func (d socketDir) remove(path string) error {
	return os.NewSyscallError("unlinkat", unix.Unlinkat(int(d), filepath.Base(path), 0))
}

// remove removes the file if it still is what is at its path. Between the look and the
// removal who may write to the directory could put another file there, which he could
// remove as well; the kernel offers no way to close that gap.
func (f *socketFile) remove() error {
	dir, err := f.openDir()
	switch {
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return f.removeByPath()
	case err == nil:
		defer dir.close()
		if dir.has(f, f.path) {
			err = dir.remove(f.path)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// removeByPath is remove where no descriptor is free.
func (f *socketFile) removeByPath() error {
	now, _, err := findFile(f.path)
	if err == nil && now.same(f) {
		err = os.NewSyscallError("unlink", unix.Unlink(f.path))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// RemoveFile removes what is at path if it is the file with that device and inode.
func RemoveFile(path string, dev, inode uint64) error {
	return (&socketFile{path: path, dev: dev, ino: inode}).remove()
}
