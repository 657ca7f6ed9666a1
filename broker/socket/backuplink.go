package socket

import (
	"errors"
	"io/fs"
	"os"

	"github.com/fdbroker/fdbroker/broker/socket/sockfile"
	"golang.org/x/sys/unix"
)

// path makes the path lead to the socket again. It removes a file that is there by now only if no process answers
// there.
func (r *repair) path() error {
	now, err := sockfile.Find(r.file.Path())
	if err == nil && now.Same(r.file) {
		if r.file.HasBackup() && r.file.Backup() == nil {
			r.file.KeepBackup()
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
	if now, err := sockfile.Find(r.file.Path()); err == nil && !now.Same(r.file) {
		return noEffect(what)
	}
	r.note(what)
	return nil
}

// linkAgain makes the path from the backup link.
func (r *repair) linkAgain() error {
	path := r.file.Path()
	lock, err := sockfile.TryLock(path)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	if err := sockfile.Clear(path, sockfile.ClearConfig{Type: r.network.Type, SkipHolders: true}); err != nil {
		return err
	}
	backup := r.file.Backup()
	if !r.file.HasBackup() || backup == nil {
		return r.beyond("the path of %s was removed")
	}
	if err := unix.Linkat(unix.AT_FDCWD, backup.Path(), unix.AT_FDCWD, path, 0); err != nil {
		return errors.Join(r.beyond("the path of %s was removed"), os.NewSyscallError("linkat", err))
	}
	return nil
}

// WatchPath adds the file of the socket's path to an inotify instance, which reports a path that is removed, replaced
// or renamed. It returns the watch, or false if the socket has no path of its own or inotify cannot watch it.
func (s *Socket) WatchPath(inotify int) (watch int, ok bool) {
	s.changing.Lock()
	defer s.changing.Unlock()
	if s.file == nil {
		return 0, false
	}
	watch, err := s.file.Watch(inotify)
	return watch, err == nil
}
