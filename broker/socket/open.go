package socket

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/fdbroker/fdbroker/broker/socket/holders"
	"github.com/fdbroker/fdbroker/broker/socket/sockdiag"
	"github.com/fdbroker/fdbroker/broker/socket/sockfile"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// OpenConfig says how to open a socket.
type OpenConfig struct {
	// Replacing are sockets that are about to be closed or retired, or were retired before, and go on as they are until
	// then. The new one may have the address of one of them. They may have other holders.
	Replacing []*Socket
	// SkipHolders spares the search of all processes for the holders of an address that is in use.
	SkipHolders bool
}

// Open binds the socket of s and, if its network has connections, listens. The caller must close it and, with
// c.Replacing, first call Commit or Abort. The error is a [*BindError]; nothing is left then, neither a descriptor nor
// a path, except directories that the option mkdir has made.
//
// The socket is close-on-exec, and non-blocking without the option blocking. A TCP socket has SO_REUSEADDR, so that it
// can be bound while old connections linger, and listen again while accepted ones live (docs/kernel.md, listen again).
// A UDP socket does not have it: it would let a second process bind the same address and take the packets away. None
// has SO_REUSEPORT.
//
// Open removes a socket in the way of a Unix path if no process answers there. Resolving a host's name may block for
// some seconds.
func Open(s spec.Spec, c OpenConfig) (*Socket, error) {
	o := opener{OpenConfig: c, spec: s, network: spec.NetworkOf(s.Network)}
	sock, err := o.replace()
	if err != nil {
		return nil, newBindError(s, err)
	}
	return sock, nil
}

// An opener opens one socket.
type opener struct {
	OpenConfig
	spec    spec.Spec
	network *spec.Network
	// sharePort binds the port also if sockets of Replacing have it.
	sharePort bool
}

// replace opens the socket after it has made way for it.
func (o *opener) replace() (*Socket, error) {
	if o.network == nil {
		return nil, fmt.Errorf("unknown network %q", o.spec.Network)
	}
	r, err := makeWay(o.spec, o.Replacing)
	if err != nil {
		return nil, err
	}
	o.sharePort = len(r.sharing) > 0
	open := o.openUnix
	if o.network.In(spec.Inet) {
		open = o.openInet
	}
	sock, err := open()
	if err != nil {
		r.undo()
		return nil, err
	}
	sock.replaces = r
	return sock, nil
}

// newFD makes an unbound socket, close-on-exec from birth; the caller must close it.
func (o *opener) newFD(family int) (*scmrights.FD, error) {
	flags := unix.SOCK_CLOEXEC
	if !o.spec.Opts().Blocking {
		flags |= unix.SOCK_NONBLOCK
	}
	fd, err := unix.Socket(family, o.network.Type|flags, o.network.Protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return scmrights.NewFD(fd), nil
}

// newSocket takes fd, bound and listening, and its file, nil if it has none.
func newSocket(s spec.Spec, address string, fd *scmrights.FD, backlog int, file *sockfile.File) (*Socket, error) {
	sock := &Socket{address: address, fd: fd, file: file}
	sock.setSpec(s)
	sock.backlog.Store(int32(backlog))
	var st unix.Stat_t
	err := control(fd, func(n int) (err error) {
		mark(n)
		sock.cookie, err = cookieOf(n)
		sock.v6only = isV6Only(n)
		return cmp.Or(err, sock.noteHealth(n), os.NewSyscallError("fstat", unix.Fstat(n, &st)))
	})
	if err != nil {
		return nil, errors.Join(err, sock.Close())
	}
	sock.inode = uint32(st.Ino) // sockfs has 32 bits of it
	return sock, nil
}

// noteHealth notes how a socket is that has had no holder yet.
func (s *Socket) noteHealth(fd int) error {
	s.health.queue = -1
	if !s.network().In(spec.Inet) {
		return nil
	}
	port, perr := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT)
	addr, aerr := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR)
	s.health.reusePort, s.health.reuseAddr = port != 0, addr != 0
	return os.NewSyscallError("getsockopt", cmp.Or(perr, aerr))
}

func isV6Only(fd int) bool {
	on, err := unix.GetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_V6ONLY)
	return err == nil && on != 0
}

func cookieOf(fd int) (uint64, error) {
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	return cookie, os.NewSyscallError("getsockopt", err)
}

// openUnix opens a Unix socket. A path is locked from before it exists until the socket listens: to another process, a
// socket that does not listen yet looks like one that a dead process left.
func (o *opener) openUnix() (*Socket, error) {
	abstract := strings.HasPrefix(o.spec.Address, "@")
	if !abstract {
		if err := makeDir(o.spec); err != nil {
			return nil, err
		}
		lock, err := sockfile.LockFor(o.spec.Address)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				err = spec.Problemf(err, "%v (the option mkdir makes it)", err)
			}
			return nil, err
		}
		defer lock.Unlock()
	}
	fd, err := o.newFD(unix.AF_UNIX)
	if err != nil {
		return nil, err
	}
	file, backlog, err := o.setUpUnix(fd, abstract)
	if err != nil {
		_ = fd.Close()
		if abstract && errors.Is(err, unix.EADDRINUSE) && !o.SkipHolders {
			err = holders.OfUnix(o.spec.Address, sockfile.FileID{})
		}
		return nil, err
	}
	return newSocket(o.spec, o.spec.Address, fd, backlog, file)
}

// makeDir makes the directory of a Unix socket's path, if the spec wants that.
func makeDir(s spec.Spec) error {
	mode := s.Opts().MkDir
	if mode == nil {
		return nil
	}
	return sockfile.MakeDirFor(s.Address, *mode)
}

// setUpUnix binds fd and makes it listen. On an error there is no path.
func (o *opener) setUpUnix(fd *scmrights.FD, abstract bool) (file *sockfile.File, backlog int, err error) {
	owner, err := sockfile.OwnerOf(o.spec.Opts())
	switch {
	case err != nil:
	case abstract:
		err = control(fd, func(n int) error { return sockfile.BindAddress(n, o.spec.Address) })
	default:
		c := sockfile.ClearConfig{Type: o.network.Type, SkipHolders: o.SkipHolders}
		file, err = sockfile.Bind(fd, o.spec.Address, owner, c)
	}
	if err == nil {
		backlog, err = sockdiag.Ask(fd, func(n int) (int, error) { return listen(o.spec, n) })
	}
	switch {
	case file == nil:
	case err != nil:
		err = errors.Join(err, file.Remove())
	default:
		file.KeepBackup()
	}
	return file, backlog, err
}
