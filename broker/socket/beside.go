//go:build linux

package socket

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
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
	return openBeside(s, old, false)
}

// openBeside is OpenBeside; brief is as in network.
func openBeside(s Spec, old []*Socket, brief bool) (sock *Socket, settle func(keep bool), err error) {
	for _, o := range old {
		if is := o.Address(); is == s.Address && is[0] == '@' && o.Spec().Network == s.Network {
			err := &problem{fmt.Sprintf("%s has the address, and an abstract one can only be given to another socket by unbinding first", o.Spec().Name), unix.EADDRINUSE, nil}
			return nil, nil, newBindError(s, err)
		}
	}
	known := networkOf(s.Network)
	if known == nil {
		return nil, nil, newBindError(s, fmt.Errorf("there is no network %q", s.Network))
	}
	n := *known
	n.brief = brief
	a, err := makeWay(s, old)
	if err != nil {
		return nil, nil, newBindError(s, err)
	}
	share(s, old, true)
	n.beside = n.in(inetNets) && slices.ContainsFunc(old, func(o *Socket) bool { return o.samePort(s) })
	sock, err = openAs(&n, s)
	if err != nil {
		share(s, old, false)
		a.settle(false)
		return nil, nil, newBindError(s, err)
	}
	return sock, func(keep bool) {
		if !keep {
			_ = sock.Close() // nobody has it yet
			share(s, old, false)
		}
		a.settle(keep)
	}, nil
}

// share sets or clears SO_REUSEPORT of those of old that have the port of s. The
// kernel looks at both sides when the second one is bound. The new one has the
// option until it listens, and the old one for good: it may live on in a worker,
// and must not be in the way of the next one either. Other processes of this user
// can then bind the address too, and those could as well ask for the socket.
func share(s Spec, old []*Socket, on bool) {
	for _, o := range old {
		if o.samePort(s) {
			o.setReusePort(on)
		}
	}
}

func (s *Socket) samePort(as Spec) bool {
	is, err := netip.ParseAddrPort(s.Address())
	return err == nil && networkOf(as.Network).in(inetNets) && strings.HasSuffix(as.Address, fmt.Sprintf(":%d", is.Port()))
}

// aside is a Unix socket's file that was moved out of the way; nil is none.
type aside struct {
	file *socketFile // where it is now
	path string      // where it was
	sock *Socket
}

// makeWay moves the file of an old socket aside where it is at the path of s.
func makeWay(s Spec, old []*Socket) (*aside, error) {
	for _, o := range old {
		dev, ino := o.File()
		if ino == 0 || o.Address() != s.Address {
			continue
		}
		moved := socketFile{path: s.Address, dev: dev, ino: ino}
		now, _, err := findFile(s.Address)
		if err != nil || !now.same(&moved) {
			return nil, nil // it is not there any more
		}
		moved.path += ".replaced"
		o.setAside(true)
		if err := rename(s.Address, moved.path); err != nil {
			o.setAside(false)
			return nil, fmt.Errorf("move the old socket to %s: %w", moved.path, err)
		}
		return &aside{&moved, s.Address, o}, nil
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
	default:
		a.sock.setAside(false)
	}
}

// setAside says that the path is for another socket, and not to be healed.
func (s *Socket) setAside(on bool) {
	s.changing.Lock()
	defer s.changing.Unlock()
	if s.health.aside = on; !on && s.file != nil {
		s.file.keepSpare() // the other one may have taken its place
	}
}

// rename renames a file, never onto another one.
func rename(from, to string) error {
	return os.NewSyscallError("renameat2", unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE))
}
