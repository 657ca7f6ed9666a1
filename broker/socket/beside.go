//go:build linux

package socket

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// OpenBeside opens the socket of s as [Open] does, also where one of old has its
// address: those are about to be closed, go on as they are until then, and may
// have other holders. The caller must call settle once it knows: with true it
// keeps the socket, and closes those of old that it is instead of; with false
// OpenBeside has never been called.
//
// Of two Unix sockets with the same path, clients reach the new one from the
// moment it is open. Of two IP ones it is either, as the kernel likes.
func OpenBeside(s Spec, old []*Socket) (sock *Socket, settle func(keep bool), err error) {
	for _, o := range old {
		if is := o.Address(); is == s.Address && is[0] == '@' && o.Spec().Network == s.Network {
			err := &problem{fmt.Sprintf("%s has the address, and an abstract one can only be given to another socket by unbinding first", o.Spec().Name), unix.EADDRINUSE, nil}
			return nil, nil, newBindError(s, err)
		}
	}
	a, err := makeWay(s, old)
	if err != nil {
		return nil, nil, newBindError(s, err)
	}
	if n := networkOf(s.Network); n != nil && n.in(inetNets) {
		sock, err = openBesideInet(*n, s, old)
	} else {
		sock, err = open(s)
	}
	if err != nil {
		a.settle(false)
		return nil, nil, newBindError(s, err)
	}
	return sock, func(keep bool) {
		if !keep {
			_ = sock.Close() // nobody has it yet
		}
		a.settle(keep)
	}, nil
}

// openBesideInet has SO_REUSEPORT set on both sides for as long as it takes: the
// kernel looks at it when the second one is bound, and not later. Other processes
// of this user could bind the address meanwhile, and those could as well ask for it.
func openBesideInet(n network, s Spec, old []*Socket) (*Socket, error) {
	for _, o := range old {
		if !samePort(s.Address, o) {
			continue
		}
		n.beside = true
		_ = o.reusePort(1)
		defer o.reusePort(0)
	}
	return openInet(&n, s)
}

func samePort(address string, o *Socket) bool {
	is, err := netip.ParseAddrPort(o.Address())
	return err == nil && strings.HasSuffix(address, fmt.Sprintf(":%d", is.Port()))
}

func (s *Socket) reusePort(value int) error {
	return control(s.fd, func(fd int) error {
		return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, value))
	})
}

// aside is a Unix socket's file that was moved out of the way; nil is none.
type aside struct {
	file *socketFile // where it is now
	path string      // where it was
}

// makeWay moves the file of an old socket aside where it is at the path of s.
func makeWay(s Spec, old []*Socket) (*aside, error) {
	for _, o := range old {
		if o.file == nil || o.file.path != s.Address {
			continue
		}
		now, _, err := findFile(s.Address)
		if err != nil || *now != *o.file {
			return nil, nil // it is not there any more
		}
		moved := *o.file
		moved.path += ".replaced"
		if err := rename(s.Address, moved.path); err != nil {
			return nil, fmt.Errorf("move the old socket to %s: %w", moved.path, err)
		}
		return &aside{&moved, s.Address}, nil
	}
	return nil, nil
}

// settle removes the file, or puts it back.
func (a *aside) settle(gone bool) {
	switch {
	case a == nil:
	case gone:
		_ = a.file.remove()
	case errors.Is(rename(a.file.path, a.path), unix.EEXIST):
		_ = a.file.remove() // somebody else has the path now
	}
}

// rename renames a file, never onto another one.
func rename(from, to string) error {
	return os.NewSyscallError("renameat2", unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE))
}
