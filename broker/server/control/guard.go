package control

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/fdbroker/fdbroker/broker/socket/sockfile"
	"github.com/fdbroker/fdbroker/internal/backoff"
	"golang.org/x/sys/unix"
)

// A control socket whose path leads elsewhere, or nowhere, can be reached by nobody: a cleaner of /tmp has removed the
// file, or the end of a session its directory. So the broker binds another one to the path. The lock file is made again
// as well, because without it a second broker could take the path.

const (
	settleTime = 100 * time.Millisecond // who removes one file may remove others, and the directory
	againTime  = time.Second            // after a repair: a directory may be hidden by a mount, which tells nothing
	retryMost  = time.Minute            // between attempts; events make them come earlier
)

// Guarded is told what [Control.Guard] does. Its methods are called by the goroutine of Guard.
type Guarded interface {
	// Renewed says that c.Listener is another socket, which listens already and is for the event loop.
	Renewed(c *Control)
	// Returned says that the path leads to the broker again, and what was wrong.
	Returned(what string)
	// Gone says that nobody can connect, and why. It is called once until that changes.
	Gone(err error)
}

// Guard keeps the control socket at its path until ctx is done. It returns an error if paths cannot be watched.
func (c *Control) Guard(ctx context.Context, g Guarded) error {
	w, err := newWatch()
	if err != nil {
		return err
	}
	defer w.close()
	defer context.AfterFunc(ctx, w.interrupt)()
	told := ""
	retry := backoff.Backoff{Max: retryMost}
	for ctx.Err() == nil {
		w.watch(c.path, c.lockPath()) // before the look, so that nothing is missed
		var wait time.Duration
		switch what, err := c.renew(g); {
		case err != nil:
			if told != err.Error() {
				told = err.Error()
				g.Gone(err)
			}
			retry.Next()
			wait = max(retry.Last, againTime)
		case what != "" || told != "":
			told, retry.Last = "", 0
			g.Returned(cmp.Or(what, "it was moved"))
			w.watch(c.path, c.lockPath())
			wait = againTime
		}
		w.wait(wait)
	}
	return nil
}

// renew makes what is missing, and returns what that was, or "".
func (c *Control) renew(g Guarded) (what string, err error) {
	hasLock, hasFile := sockfile.IDOf(c.lockPath()) == c.lock.ID(), sockfile.IDOf(c.path) == c.file.ID()
	if hasLock && hasFile {
		return "", nil
	}
	if err := makeDir(c.path); err != nil {
		return "", err
	}
	if err := c.checkDir(); err != nil {
		return "", err
	}
	if !hasLock {
		lock, err := lockPath(c.path)
		if err != nil {
			return "", err
		}
		c.lock.Unlock()
		c.lock, what = lock, "its lock file was removed"
	}
	if hasFile {
		return what, nil
	}
	what = "its path was removed"
	if _, err := sockfile.Find(c.path); err == nil {
		what = "its path was replaced"
	}
	if err := clearPath(c.path); err != nil {
		return "", err
	}
	ln, file, err := c.config.listen()
	if err != nil {
		return "", fmt.Errorf("cannot listen on the control socket %s: %w", c.path, err)
	}
	c.Listener, c.file = ln, file
	g.Renewed(c)
	return what, nil
}

// checkDir refuses a directory that another user has put there, unless that was possible from the start: the user could
// lead this process, by a symbolic link, to make files anywhere.
func (c *Control) checkDir() error {
	dir := filepath.Dir(c.path)
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if st.Uid != 0 && st.Uid != uint32(os.Geteuid()) && !c.exposed {
		return fmt.Errorf("%s now belongs to uid %d: remove it", dir, st.Uid)
	}
	return nil
}

func (c *Control) lockPath() string { return sockfile.LockPath(c.path) }

// watch is an inotify instance that tells when a path may lead elsewhere.
type watch struct {
	file    *os.File
	watches []int
}

func newWatch() (*watch, error) {
	n, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	return &watch{file: os.NewFile(uintptr(n), "paths of the control socket")}, nil
}

func (w *watch) close()     { _ = w.file.Close() }
func (w *watch) interrupt() { _ = w.file.Close() } // which ends a wait

// control calls use with the descriptor, unless it is closed.
func (w *watch) control(use func(n int)) {
	if raw, err := w.file.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { use(int(fd)) })
	}
}

// watch watches files, and the directories above them. What happens in a directory counts only if one of the files, or
// a directory on the way, is not there: others make files there all the time.
func (w *watch) watch(files ...string) {
	const self = unix.IN_MOVE_SELF | unix.IN_DELETE_SELF | unix.IN_ATTRIB
	w.control(func(n int) {
		for _, is := range w.watches {
			_, _ = unix.InotifyRmWatch(n, uint32(is))
		}
		w.watches = w.watches[:0]
		add := func(path string, events uint32) error {
			is, err := unix.InotifyAddWatch(n, path, events|unix.IN_MASK_ADD)
			if err == nil {
				w.watches = append(w.watches, is)
			}
			return err
		}
		missing := false
		for _, file := range files {
			missing = add(file, self|unix.IN_DONT_FOLLOW) != nil || missing
		}
		for dir := filepath.Dir(files[0]); ; dir = filepath.Dir(dir) {
			events := uint32(unix.IN_MOVE_SELF | unix.IN_DELETE_SELF)
			if missing {
				events = self | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVE
			}
			if add(dir, events) == nil {
				missing = false
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
		b := make([]byte, 4096) // events so far count no more
		for {
			if read, err := unix.Read(n, b); read <= 0 || err != nil {
				return
			}
		}
	})
}

// wait waits until something has happened, and a little longer, but no longer than limit, unless that is 0.
func (w *watch) wait(limit time.Duration) {
	deadline := time.Time{}
	if limit > 0 {
		deadline = time.Now().Add(limit)
	}
	_ = w.file.SetReadDeadline(deadline)
	if _, err := w.file.Read(make([]byte, 4096)); err == nil {
		time.Sleep(settleTime)
	}
}
