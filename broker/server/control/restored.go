//go:build linux

package control

import (
	"errors"
	"os"

	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// Restored is the control socket of an earlier broker.
type Restored struct {
	FD   *scmrights.FD
	File FileID // its file then
	Path string // empty if that and the file are unknown
}

// close closes a socket that was not used; r may be nil.
func (r *Restored) close() {
	if r != nil && r.FD != nil {
		_ = r.FD.Close()
	}
}

// use returns the socket as that of c, if the clients of c reach it; the caller must close
// it. It listens again, because SO_PEERCRED shows clients the process that did so last.
func (r *Restored) use(c Config) (fd *scmrights.FD, id FileID, err error) {
	if r == nil || r.FD == nil {
		return nil, id, os.ErrNotExist
	}
	if id, err = idOf(c.Path); err != nil {
		return nil, id, err
	}
	if r.Path != "" && (r.Path != c.Path || r.File != id) {
		return nil, id, errors.New("another file is at its path")
	}
	cerr := r.FD.Control(func(n uintptr) {
		var sa unix.Sockaddr
		if sa, err = unix.Getsockname(int(n)); err != nil {
			return
		}
		if at, ok := sa.(*unix.SockaddrUnix); !ok || at.Name != c.Path {
			err = errors.New("it is at another path")
			return
		}
		id, err = c.open(r.FD, int(n))
	})
	if err = errors.Join(cerr, err); err != nil {
		return nil, id, err
	}
	fd, r.FD = r.FD, nil
	return fd, id, nil
}
