//go:build linux

package socket

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The file of a Unix socket has a second link in the same directory, ".NAME.fdbroker". If
// a worker has removed the path, the broker makes it again from that link: the kernel makes
// no link to a file that has none left, not even by its descriptor. If the filesystem has
// no links, or fs.protected_hardlinks forbids one to a file that was given to another user,
// there is no backup link, and a removed path cannot be repaired.

// spareOf returns the path of the backup link of the file at path.
func spareOf(path string) string {
	dir, base := filepath.Split(path)
	return dir + "." + base + ".fdbroker"
}

// keepSpare makes the backup link, unless it is there. It removes one that another socket
// has left behind, because the path of that is ours now.
func (f *socketFile) keepSpare() {
	f.spare = false
	dir, err := f.openDir()
	if err != nil {
		return
	}
	defer dir.close()
	spare := spareOf(f.path)
	if f.spare = dir.has(f, spare); f.spare {
		return
	}
	if _, kind, err := dir.find(spare); err == nil && kind == fs.ModeSocket {
		_ = dir.remove(spare)
	}
	if dir.link(f.path, spare) != nil {
		return
	}
	if f.spare = dir.has(f, spare); !f.spare { // another process has replaced the file at the path
		_ = dir.remove(spare)
	}
}

// dropSpare removes the backup link.
func (f *socketFile) dropSpare() {
	if now, _, err := findFile(spareOf(f.path)); err == nil && now.same(f) {
		_ = now.remove()
	}
}

// same reports whether two links lead to one file.
func (f *socketFile) same(g *socketFile) bool { return f.dev == g.dev && f.ino == g.ino }

// errLocked says that another process has the path locked just now.
var errLocked = errors.New("another process has the path locked")

// path makes the path lead to the socket again. It removes a file that is there by now only
// if no process answers there.
func (r *repair) path() error {
	now, _, err := findFile(r.file.path)
	if err == nil && now.same(r.file) {
		if r.file.spare {
			if now, _, err := findFile(spareOf(r.file.path)); err != nil || !now.same(r.file) {
				r.file.keepSpare()
			}
		}
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	what := "path removed"
	if err == nil {
		what = "path replaced"
	}
	if err := r.linkAgain(); err != nil {
		return err
	}
	if now, _, err := findFile(r.file.path); err == nil && !now.same(r.file) {
		return noEffect(what)
	}
	r.note(what)
	return nil
}

// linkAgain makes the path from the backup link.
func (r *repair) linkAgain() error {
	path := r.file.path
	lock, err := tryLock(path, path+".lock")
	switch {
	case err != nil:
		return err
	case lock == nil:
		return errLocked
	}
	defer lock.unlock()
	brief := *r.network
	brief.brief = true
	if err := clearPath(&brief, path); err != nil {
		return err
	}
	spare, _, err := findFile(spareOf(path))
	if !r.file.spare || err != nil || !spare.same(r.file) {
		return r.beyond("the path of %s was removed")
	}
	if err := unix.Linkat(unix.AT_FDCWD, spare.path, unix.AT_FDCWD, path, 0); err != nil {
		return errors.Join(r.beyond("the path of %s was removed"), os.NewSyscallError("linkat", err))
	}
	return nil
}

// WatchPath adds the file of the socket's path to an inotify instance, which reports a path
// that is removed, replaced or renamed, because each of them changes the number of the
// file's links or moves one. Other files in the directory cause no event. It returns the
// watch, or false if the socket has no path of its own or inotify cannot watch it.
func (s *Socket) WatchPath(inotify int) (watch int, ok bool) {
	s.changing.Lock()
	defer s.changing.Unlock()
	if s.file == nil {
		return 0, false
	}
	const what = unix.IN_ATTRIB | unix.IN_MOVE_SELF | unix.IN_DELETE_SELF | unix.IN_DONT_FOLLOW
	link := s.file.path
	if s.file.spare {
		link = spareOf(link) // the same file, which is there also if the path is gone already
	}
	watch, err := unix.InotifyAddWatch(inotify, link, what)
	return watch, err == nil
}
