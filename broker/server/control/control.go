// Package control makes the control socket of a broker: it checks and locks the path, removes the socket of a dead
// broker, or goes on with the socket of an earlier one, and listens.
//
// It may change the socket's file, its lock file, and their directory, which it makes if that is missing. It must never
// accept a connection, and never touch a file or a socket that is not a broker's.
package control

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/fdbroker/fdbroker/broker/socket/sockfile"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// Config says at which path the control socket is, and which users may connect to it.
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

// Restored is the control socket of an earlier broker.
type Restored struct {
	FD   *scmrights.FD
	File sockfile.FileID // its file then
	Path string          // empty if that and the file are unknown
}

// Control is the control socket, and the lock that makes sure that a path has one broker.
type Control struct {
	// Listener is for [server.Server.Serve], which takes it.
	Listener *scmrights.FD

	path   string
	config Config // of another socket at the path
	// exposed says that other users could put a socket there from the start.
	exposed bool
	file    *sockfile.File
	lock    *sockfile.Lock
}

// Listen makes the control socket and listens on it; the caller must close the Control. It takes the FD of c.Restored.
// No client can connect before the socket's mode and group are right. None can send it descriptors if the kernel can
// refuse them (SO_PASSRIGHTS, Linux 6.16), because to close a descriptor with SO_LINGER would block the broker.
func Listen(c Config) (_ *Control, err error) {
	defer func() { c.Restored.close() }() // unless it was used
	if c.Mode == 0 {
		c.Mode = 0o600
	}
	if err := checkPath(c.Path); err != nil {
		return nil, err
	}
	if err := makeDir(c.Path); err != nil {
		return nil, err
	}
	ctl := &Control{path: c.Path, config: Config{Path: c.Path, Mode: c.Mode, GID: c.GID}}
	ctl.exposed = ctl.Exposed() != ""
	if ctl.lock, err = lockPath(c.Path); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			ctl.lock.Unlock()
		}
	}()
	if ctl.Listener, ctl.file = c.Restored.use(c); ctl.Listener != nil {
		return ctl, nil
	}
	c.Restored.close() // otherwise it would answer at its path
	if err := clearPath(c.Path); err != nil {
		return nil, err
	}
	if ctl.Listener, ctl.file, err = c.listen(); err != nil {
		return nil, fmt.Errorf("cannot listen on the control socket %s: %w", c.Path, err)
	}
	return ctl, nil
}

// makeDir makes the directory of path, if its parent exists.
func makeDir(path string) error {
	dir := filepath.Dir(path)
	if err := os.Mkdir(dir, 0o755); err == nil {
		_ = os.Chmod(dir, 0o755) // whatever the umask
	} else if !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("cannot create the directory of the control socket: %w", err)
	}
	return nil
}

// checkPath refuses a path that bind(2) would refuse, or take for an abstract name.
func checkPath(path string) error {
	const most = len(unix.RawSockaddrUnix{}.Path) - 1
	switch {
	case path == "" || path[0] == '@':
		return fmt.Errorf("%q is not a path for the control socket", path)
	case len(path) > most:
		return fmt.Errorf("the control socket's path has %d bytes, and a socket's has at most %d: %s", len(path), most, path)
	}
	return nil
}

const advice = "stop it, or name another path with --socket"

// lockPath locks the path, with the pid of this process in the lock file.
func lockPath(path string) (*sockfile.Lock, error) {
	l, err := sockfile.TryLock(path)
	if locked, ok := errors.AsType[*sockfile.LockedError](err); ok {
		pid := ""
		if locked.PID != 0 {
			pid = fmt.Sprintf(", pid %d,", locked.PID)
		}
		return nil, fmt.Errorf("another broker%s has the control socket %s; %s", pid, path, advice)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot lock the control socket %s: %w (--socket names another path)", path, err)
	}
	l.WritePID()
	return l, nil
}

// clearPath removes the socket of a broker that has ended. As the path is locked, a process
// that answers there is not a broker.
func clearPath(path string) error {
	switch err := sockfile.Clear(path, sockfile.ClearConfig{Type: unix.SOCK_STREAM, SkipHolders: true}); {
	case errors.Is(err, sockfile.ErrNotSocket):
		return fmt.Errorf("%s exists and is not a socket; remove it, or name another path with --socket", path)
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("another program answers at %s already; %s", path, advice)
	case err != nil:
		return fmt.Errorf("cannot tell whether %s is in use: %w", path, err)
	}
	return nil
}

func (c Config) listen() (*scmrights.FD, *sockfile.File, error) {
	n, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socket", err)
	}
	fd := scmrights.NewFD(n)
	file, err := sockfile.Bind(fd, c.Path, c.owner(), sockfile.ClearConfig{Type: unix.SOCK_STREAM, SkipHolders: true})
	if err == nil {
		if err = listenOn(n); err == nil {
			return fd, file, nil
		}
		_ = file.Remove()
	}
	_ = fd.Close()
	return nil, nil, err
}

func (c Config) owner() sockfile.Owner {
	mode, gid := c.Mode.Perm(), -1
	if c.GID != nil {
		gid = *c.GID
	}
	return sockfile.Owner{Mode: &mode, UID: -1, GID: gid}
}

func listenOn(n int) error {
	_ = unix.SetsockoptInt(n, unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 0) // unknown to older kernels
	return os.NewSyscallError("listen", unix.Listen(n, -1))           // -1: the kernel's somaxconn
}

// close closes a socket that was not used; r may be nil.
func (r *Restored) close() {
	if r != nil && r.FD != nil {
		_ = r.FD.Close()
	}
}

// use returns the socket as that of c, and its file, if the clients of c reach it; the caller must close the socket. It
// listens again, because SO_PEERCRED shows clients the process that did so last.
func (r *Restored) use(c Config) (fd *scmrights.FD, file *sockfile.File) {
	if r == nil || r.FD == nil || r.Path != "" && (r.Path != c.Path || r.File != sockfile.IDOf(c.Path)) {
		return nil, nil
	}
	_ = r.FD.Control(func(n uintptr) {
		sa, err := unix.Getsockname(int(n))
		if own, isUnix := sa.(*unix.SockaddrUnix); err != nil || !isUnix || own.Name != c.Path {
			return
		}
		file, err = c.owner().Give(int(n), c.Path, true)
		if err == nil && listenOn(int(n)) == nil {
			fd = r.FD
		}
	})
	if fd != nil {
		r.FD = nil
	}
	return fd, file
}

// Path returns the path of the control socket.
func (c *Control) Path() string { return c.path }

// File returns which file is the socket's.
func (c *Control) File() sockfile.FileID { return c.file.ID() }

// Exposed says, in words for the log, why another user can put a socket in the place of the control socket, so that the
// broker's clients connect to that. It is empty if none can, as far as the socket's directory shows.
func (c *Control) Exposed() string { return sockfile.Exposure(filepath.Dir(c.path)) }

// Close closes the listener, if Serve has not, removes the socket if its file is still at
// the path, and gives up the lock. Closing again does nothing.
func (c *Control) Close() error {
	if c.lock == nil {
		return nil
	}
	err := c.file.Remove()
	c.Release()
	return err
}

// Release is Close for a socket that the next broker goes on with: it stays.
func (c *Control) Release() {
	if c.lock == nil {
		return
	}
	_ = c.Listener.Close() // usually closed already
	c.lock.Unlock()
	c.lock = nil
}
