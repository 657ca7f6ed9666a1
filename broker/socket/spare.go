//go:build linux

package socket

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The file of a Unix socket has a second link beside it, ".NAME.fdbroker": by that the
// path can be made again when somebody has removed it. The kernel makes no link to a
// file that has none left, not even by a descriptor of it. Where a link cannot be made
// (the filesystem has none, or fs.protected_hardlinks is in the way as the file was
// given to another user) there is no spare, and a removed path cannot be repaired.

// spareOf returns the path of the spare link of the file at path.
func spareOf(path string) string {
	dir, base := filepath.Split(path)
	return dir + "." + base + ".fdbroker"
}

// keepSpare makes the spare link, unless it is there. One that another socket has left
// behind is removed: the path that it stood for is ours.
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
	if f.spare = dir.has(f, spare); !f.spare { // somebody has replaced what was at the path
		_ = dir.remove(spare)
	}
}

// dropSpare removes the spare link.
func (f *socketFile) dropSpare() {
	if now, _, err := findFile(spareOf(f.path)); err == nil && now.same(f) {
		_ = now.remove()
	}
}

// same reports whether two links lead to one file.
func (f *socketFile) same(g *socketFile) bool { return f.dev == g.dev && f.ino == g.ino }

// errLocked says that another process has the path locked just now.
var errLocked = errors.New("another process has the path locked")

// healPath makes the path lead to the socket again. What is there by now is removed
// only if nobody answers there.
func (p *patient) healPath() error {
	now, _, err := findFile(p.file.path)
	if err == nil && now.same(p.file) {
		if p.file.spare {
			if now, _, err := findFile(spareOf(p.file.path)); err != nil || !now.same(p.file) {
				p.file.keepSpare()
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
	if err := p.linkAgain(); err != nil {
		return err
	}
	p.found(what)
	return nil
}

// linkAgain makes the path from the spare link.
func (p *patient) linkAgain() error {
	path := p.file.path
	lock, err := tryLock(path, path+".lock")
	switch {
	case err != nil:
		return err
	case lock == nil:
		return errLocked
	}
	defer lock.unlock()
	brief := *p.network
	brief.brief = true
	if err := clearPath(&brief, path); err != nil {
		return err
	}
	spare, _, err := findFile(spareOf(path))
	if !p.file.spare || err != nil || !spare.same(p.file) {
		return p.beyondRepair("the path of %s was removed")
	}
	if err := unix.Linkat(unix.AT_FDCWD, spare.path, unix.AT_FDCWD, path, 0); err != nil {
		return errors.Join(os.NewSyscallError("linkat", err), p.beyondRepair("the path of %s was removed"))
	}
	return nil
}

// WatchPath adds the file of the socket's path to an inotify instance, which then
// tells when the path is removed, replaced or renamed: all of that changes the number
// of the file's links, or moves one. Nothing else in the directory wakes anybody. It
// returns the watch, or false where there is no path of ours, or it cannot be watched.
func (s *Socket) WatchPath(inotify int) (watch int, ok bool) {
	s.changing.Lock()
	defer s.changing.Unlock()
	if s.file == nil {
		return 0, false
	}
	const what = unix.IN_ATTRIB | unix.IN_MOVE_SELF | unix.IN_DELETE_SELF | unix.IN_DONT_FOLLOW
	link := s.file.path
	if s.file.spare {
		link = spareOf(link) // the same file, and it is there also where the path is gone already
	}
	watch, err := unix.InotifyAddWatch(inotify, link, what)
	return watch, err == nil
}
