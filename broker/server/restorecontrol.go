//go:build linux

package server

import (
	"errors"
	"os"

	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// close closes a socket that was not used; r may be nil.
func (r *RestoredControl) close() {
	if r != nil && r.fd != nil {
		_ = r.fd.Close()
	}
}

// use returns the socket as that of c, where it is one that clients of c reach; the
// caller must close it. It listens again, since clients are told who did so last.
func (r *RestoredControl) use(c ControlConfig) (fd *scmrights.FD, id fileID, err error) {
	if r == nil || r.fd == nil {
		return nil, id, os.ErrNotExist
	}
	if id, err = idOf(c.Path); err != nil {
		return nil, id, err
	}
	if r.saved != (savedControl{}) && r.saved != (savedControl{id, c.Path}) {
		return nil, id, errors.New("another file is at its path")
	}
	cerr := r.fd.Control(func(n uintptr) {
		var sa unix.Sockaddr
		if sa, err = unix.Getsockname(int(n)); err != nil {
			return
		}
		if at, ok := sa.(*unix.SockaddrUnix); !ok || at.Name != c.Path {
			err = errors.New("it is at another path")
			return
		}
		_ = unix.SetsockoptInt(int(n), unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 0) // unknown to older kernels
		err = unix.Listen(int(n), -1)
	})
	if err = errors.Join(cerr, err); err != nil {
		return nil, id, err
	}
	if id, err = c.own(r.fd); err != nil {
		return nil, id, err
	}
	fd, r.fd = r.fd, nil
	return fd, id, nil
}
