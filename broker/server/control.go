//go:build linux

package server

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// ControlConfig says where the control socket is and who may connect to it.
type ControlConfig struct {
	// Path of the socket, at most 107 bytes (unix(7)). Its directory is made where
	// it does not exist, mode 0755; that directory's parent must exist.
	Path string
	// Mode of the socket. Default 0600.
	Mode os.FileMode
	// GID is the socket's group; nil leaves it the broker's.
	GID *int
	// Restored is the socket of an earlier broker, if there is one. ListenControl takes
	// it, and goes on with it where it is at Path: who has connected meanwhile waits there.
	Restored *RestoredControl
}

// Control is the control socket, and the lock that makes sure there is one broker
// to a path.
type Control struct {
	// Listener is for [Server.Serve], which takes it.
	Listener *scmrights.FD

	path string
	id   fileID
	lock *os.File
}

type fileID struct{ dev, ino uint64 }

// ListenControl makes the control socket and listens on it. Nobody can connect
// before its mode and group are right, and nobody can send it descriptors
// where the kernel can refuse them (SO_PASSRIGHTS, Linux 6.16): closing one
// with SO_LINGER would block the broker. The caller must close the Control.
func ListenControl(c ControlConfig) (_ *Control, err error) {
	defer func() { c.Restored.close() }() // unless it was used
	if c.Mode == 0 {
		c.Mode = 0o600
	}
	if err := checkPath(c.Path); err != nil {
		return nil, err
	}
	if err := os.Mkdir(filepath.Dir(c.Path), 0o755); err == nil {
		_ = os.Chmod(filepath.Dir(c.Path), 0o755) // whatever the umask
	} else if !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("cannot make the directory of the control socket: %w", err)
	}
	lock, err := lockFor(c.Path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			unlock(lock)
		}
	}()
	ctl := &Control{path: c.Path, lock: lock}
	if ctl.Listener, ctl.id, err = c.Restored.use(c); err == nil {
		return ctl, nil
	}
	c.Restored.close() // nobody must seem to answer there
	if err := removeStale(c.Path); err != nil {
		return nil, err
	}
	if ctl.Listener, ctl.id, err = listenUnix(c); err != nil {
		return nil, fmt.Errorf("cannot listen on the control socket %s: %w", c.Path, err)
	}
	return ctl, nil
}

// checkPath refuses what bind(2) would refuse too, or take for something else.
func checkPath(path string) error {
	const most = len(unix.RawSockaddrUnix{}.Path) - 1
	switch {
	case path == "" || path[0] == '@':
		return fmt.Errorf("%q is no path for the control socket", path)
	case len(path) > most:
		return fmt.Errorf("the control socket's path has %d bytes, and a socket's has at most %d: %s", len(path), most, path)
	}
	return nil
}

// Path returns where the control socket is.
func (c *Control) Path() string { return c.path }

// Close closes the listener, if Serve has not, removes the socket if it still
// is this one, and lets go of the lock. Closing again does nothing.
func (c *Control) Close() error {
	if c.lock == nil {
		return nil
	}
	err := socket.RemoveFile(c.path, c.id.dev, c.id.ino)
	c.Release()
	return err
}

// Release is Close for a socket that the next broker goes on with: it stays.
func (c *Control) Release() {
	if c.lock == nil {
		return
	}
	_ = c.Listener.Close() // closed already, as a rule
	unlock(c.lock)
	c.lock = nil
}

// lockFor takes the lock of the control socket at path.
func lockFor(path string) (*os.File, error) {
	name := path + ".lock"
	for {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			if lerr := socket.CheckLock(name); lerr != nil {
				return nil, notLocked(path, lerr)
			}
			return nil, fmt.Errorf("cannot open the lock of the control socket: %w; name another path with --socket", err)
		}
		locked, err := flock(f)
		if err != nil {
			_ = f.Close()
			return nil, err
		}
		if !locked {
			defer f.Close()
			if err := socket.CheckLock(name); err != nil {
				return nil, notLocked(path, err)
			}
			return nil, fmt.Errorf("another broker%s has the control socket %s; stop it, or name another path with --socket", writtenPID(f), path)
		}
		// The one who held it may have removed the file between open and lock.
		id, err := idOf(name)
		if opened, oerr := idOfFile(f); err == nil && oerr == nil && id == opened {
			_ = f.Truncate(0)
			_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
			return f, nil
		}
		_ = f.Close()
	}
}

func notLocked(path string, why error) error {
	return fmt.Errorf("cannot lock the control socket %s: %w (--socket names another path)", path, why)
}

func flock(f *os.File) (locked bool, err error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return false, err
	}
	var lerr error
	if err := rc.Control(func(fd uintptr) { lerr = unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB) }); err != nil {
		return false, err
	}
	if lerr == unix.EWOULDBLOCK {
		return false, nil
	}
	return lerr == nil, os.NewSyscallError("flock", lerr)
}

// writtenPID returns ", pid N," as the owner of a lock has written it.
func writtenPID(f *os.File) string {
	b := make([]byte, 16)
	n, _ := f.ReadAt(b, 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil {
		return ""
	}
	return fmt.Sprintf(", pid %d,", pid)
}

// unlock removes the lock file while it is still locked, so that nobody else can
// hold a lock on the file that is being removed.
func unlock(f *os.File) {
	_ = os.Remove(f.Name())
	_ = f.Close()
}

// removeStale removes the socket of a broker that is gone. The lock is held, so
// that whoever answers there is no broker of ours.
func removeStale(path string) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("cannot look at the control socket: %w", err)
	case st.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("%s exists and is no socket; remove it, or name another path with --socket", path)
	}
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: path})
	if err == nil {
		_ = c.Close()
		return fmt.Errorf("somebody answers at %s already; stop it, or name another path with --socket", path)
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("cannot tell whether %s is in use: %w", path, err)
	}
	return os.Remove(path)
}

// listenUnix is what net.ListenUnix does, with mode and group set before anybody
// can connect, and without the runtime's poller: the desk has one of its own.
func listenUnix(c ControlConfig) (_ *scmrights.FD, id fileID, err error) {
	n, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, id, os.NewSyscallError("socket", err)
	}
	fd := scmrights.NewFD(n)
	defer func() {
		if err != nil {
			_ = fd.Close()
		}
	}()
	_ = unix.SetsockoptInt(n, unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 0) // unknown to older kernels
	// The file gets the socket's own mode, less the umask (unix(7)).
	if err := unix.Fchmod(n, uint32(c.Mode.Perm())); err != nil {
		return nil, id, os.NewSyscallError("fchmod", err)
	}
	if err := unix.Bind(n, &unix.SockaddrUnix{Name: c.Path}); err != nil {
		return nil, id, os.NewSyscallError("bind", err)
	}
	defer func() {
		if err != nil {
			_ = socket.RemoveFile(c.Path, id.dev, id.ino)
		}
	}()
	if id, err = c.own(fd); err != nil {
		return nil, id, err
	}
	if err := unix.Listen(n, -1); err != nil { // -1: the kernel's somaxconn
		return nil, id, os.NewSyscallError("listen", err)
	}
	return fd, id, nil
}

// own gives the file of the control socket, fd, which it borrows, the group and the mode
// of c, and returns which file that is.
func (c ControlConfig) own(fd *scmrights.FD) (id fileID, err error) {
	id.dev, id.ino, err = socket.SetFile(fd, c.Path, c.Mode.Perm(), c.GID)
	return id, err
}

func idOf(path string) (fileID, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fileID{}, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	return fileID{uint64(st.Dev), st.Ino}, nil
}

func idOfFile(f *os.File) (fileID, error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return fileID{}, err
	}
	var st unix.Stat_t
	var serr error
	err = rc.Control(func(fd uintptr) { serr = unix.Fstat(int(fd), &st) })
	return fileID{uint64(st.Dev), st.Ino}, errors.Join(err, os.NewSyscallError("fstat", serr))
}
