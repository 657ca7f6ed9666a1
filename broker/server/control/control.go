//go:build linux

package control

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// Config says where the control socket is and who may connect to it.
type Config struct {
	// Path of the socket, at most 107 bytes (unix(7)). If its directory does not exist
	// it is made, with mode 0755; that directory's parent must exist.
	Path string
	// Mode of the socket. Default 0600.
	Mode os.FileMode
	// GID is the socket's group; nil leaves it the broker's.
	GID *int
	// Restored is the socket of an earlier broker; nil if there is none. Listen goes on
	// with it if it is at Path: clients that have connected meanwhile wait there.
	Restored *Restored
}

// Control is the control socket, and the lock that makes sure that a path has one broker.
type Control struct {
	// Listener is for [server.Server.Serve], which takes it.
	Listener *scmrights.FD

	path string
	file FileID
	lock *os.File
}

// Listen makes the control socket and listens on it; the caller must close the Control.
// It takes the FD of c.Restored. No client can connect before the socket's mode and group
// are right. None can send it descriptors if the kernel can refuse them (SO_PASSRIGHTS,
// Linux 6.16), because to close a descriptor with SO_LINGER would block the broker.
func Listen(c Config) (_ *Control, err error) {
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
	if ctl.Listener, ctl.file, err = c.Restored.use(c); err == nil {
		return ctl, nil
	}
	c.Restored.close() // otherwise it would answer at its path
	if err := removeStale(c.Path); err != nil {
		return nil, err
	}
	if ctl.Listener, ctl.file, err = listen(c); err != nil {
		return nil, fmt.Errorf("cannot listen on the control socket %s: %w", c.Path, err)
	}
	return ctl, nil
}

// checkPath refuses what bind(2) would refuse, or take for something else.
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

// removeStale removes the socket of a broker that has ended. As the path is locked, what
// answers there is not a broker.
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

// listen is what net.ListenUnix does, except that mode and group are set before a client
// can connect, and that the socket stays out of the runtime's poller.
func listen(c Config) (_ *scmrights.FD, id FileID, err error) {
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
	// The file gets the socket's own mode, less the umask (unix(7)).
	if err := unix.Fchmod(n, uint32(c.Mode.Perm())); err != nil {
		return nil, id, os.NewSyscallError("fchmod", err)
	}
	if err := unix.Bind(n, &unix.SockaddrUnix{Name: c.Path}); err != nil {
		return nil, id, os.NewSyscallError("bind", err)
	}
	if id, err = c.open(fd, n); err != nil {
		_ = socket.RemoveFile(c.Path, id.Dev, id.Ino)
	}
	return fd, id, err
}

// open gives the file of the bound socket fd, which is n, its mode and group, and listens.
// It returns which file that is, also on an error if it is there.
func (c Config) open(fd *scmrights.FD, n int) (id FileID, err error) {
	if id.Dev, id.Ino, err = socket.SetFile(fd, c.Path, c.Mode.Perm(), c.GID); err != nil {
		return id, err
	}
	_ = unix.SetsockoptInt(n, unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 0) // unknown to older kernels
	return id, os.NewSyscallError("listen", unix.Listen(n, -1))       // -1: the kernel's somaxconn
}

// Path returns where the control socket is.
func (c *Control) Path() string { return c.path }

// File returns which file is the socket's.
func (c *Control) File() FileID { return c.file }

// Close closes the listener, if Serve has not, removes the socket if its file is still at
// the path, and gives up the lock. Closing again does nothing.
func (c *Control) Close() error {
	if c.lock == nil {
		return nil
	}
	err := socket.RemoveFile(c.path, c.file.Dev, c.file.Ino)
	c.Release()
	return err
}

// Release is Close for a socket that the next broker goes on with: it stays.
func (c *Control) Release() {
	if c.lock == nil {
		return
	}
	_ = c.Listener.Close() // usually closed already
	unlock(c.lock)
	c.lock = nil
}

// Exposed says, in words for the log, why another user can put a socket in the place of
// the control socket, so that the broker's clients connect to that. It is empty if none
// can, as far as the socket's directory shows.
func (c *Control) Exposed() string { return exposure(filepath.Dir(c.path)) }

func exposure(dir string) string {
	const help = "use a directory that root or the broker's user owns, and nobody else may write to"
	var st unix.Stat_t
	switch err := unix.Stat(dir, &st); {
	case err != nil:
		return "" // the socket is gone with it
	case st.Uid != 0 && st.Uid != uint32(os.Geteuid()):
		return fmt.Sprintf("%s belongs to uid %d, who can replace what is in it: %s", dir, st.Uid, help)
	case st.Mode&unix.S_IWOTH != 0 && st.Mode&unix.S_ISVTX == 0:
		return fmt.Sprintf("everybody may write to %s, and can replace what is in it: %s", dir, help)
	}
	return ""
}
