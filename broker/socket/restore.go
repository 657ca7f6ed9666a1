//go:build linux

package socket

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/scmrights"
)

// Saved is what was known of a socket by the process that had it.
type Saved struct {
	Cookie   uint64 // see [Socket.Cookie]; 0: not known
	Adopted  bool   // see [Socket.Adopted]
	Dev, Ino uint64 // see [Socket.File]
}

// Restore returns the socket of the spec that text is, as [Open], [Adopt] or [AdoptAny]
// has returned it to an earlier process of ours. It takes fd if it succeeds. What others
// may be using of it stays as it is; one that has stopped listening listens again. It
// must be the very socket that was saved and, unless it was adopted, have its path still,
// or a second link by which that can be made again.
//
// Where text is no spec any more, since it names a user who is gone, the socket is that
// of its name and address, without options.
func Restore(text string, fd *scmrights.FD, saved Saved) (*Socket, error) {
	name, rest, _ := strings.Cut(text, "=")
	if _, isAny := strings.CutPrefix(rest, anyName+"://"); isAny {
		return restoreAny(name, rest, fd)
	}
	s, err := ParseSpec(text)
	if err != nil {
		if s, err = SpecOf(name, fd); err != nil {
			return nil, err
		}
	}
	n := networkOf(s.Network)
	var is identity
	var file *socketFile
	err = control(fd, func(num int) (err error) {
		if err := listenAgain(n, s, num); err != nil {
			return err
		}
		if is, err = identify(num); err != nil {
			return err
		}
		if !is.in(n) {
			return fmt.Errorf("it is %s", is)
		}
		cookie, err := unix.GetsockoptUint64(num, unix.SOL_SOCKET, unix.SO_COOKIE)
		if err == nil && saved.Cookie != 0 && cookie != saved.Cookie {
			return errors.New("it is another socket")
		}
		if err == nil && !saved.Adopted && n.in(unixNets) && is.address[0] != '@' {
			file, err = ownFile(is.address, saved)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	backlog := s.options().Backlog
	if limit := somaxconn(); n.in(connNets) && (backlog == 0 || backlog > limit) {
		backlog = limit
	}
	if !n.in(connNets) {
		backlog = 0
	}
	dup, err := fd.Dup() // newSocketOf takes it in any case
	if err != nil {
		return nil, err
	}
	sock, err := newSocketOf(s, is.address, dup, backlog, file)
	if err != nil {
		return nil, err
	}
	if sock.adopted = saved.Adopted; !sock.adopted {
		sock.health.reusePort, sock.health.reuseAddr = false, n.in(tcpNets) // whatever a worker has made of it
	}
	_ = fd.Close()
	_, _ = sock.Repair() // the health monitor reports what cannot be undone
	return sock, nil
}

func restoreAny(name, rest string, fd *scmrights.FD) (*Socket, error) {
	_, options, _ := strings.Cut(rest, ",")
	return adoptAny(name, options, fd)
}

// listenAgain makes a socket listen that has stopped: a worker may have shut it down
// while nobody looked.
func listenAgain(n *network, s Spec, fd int) error {
	if !n.in(tcpNets) {
		return nil
	}
	if on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || on != 0 {
		return os.NewSyscallError("getsockopt", err)
	}
	_, err := listen(n, s, fd)
	return err
}

// ownFile returns the file at path if it is the one that was saved.
func ownFile(path string, saved Saved) (*socketFile, error) {
	was := &socketFile{path: path, dev: saved.Dev, ino: saved.Ino}
	if saved.Ino != 0 {
		if spare, _, err := findFile(spareOf(path)); err == nil && spare.same(was) {
			was.spare = true
			return was, nil // a path that was removed meanwhile can be made again: see Repair
		}
	}
	file, _, err := findFile(path)
	if err != nil {
		return nil, err
	}
	if saved.Ino != 0 && !file.same(was) {
		return nil, fmt.Errorf("%s is another file now", path)
	}
	file.keepSpare()
	return file, nil
}

// File returns which file the socket's path is, zeros where it has none that is its own.
func (s *Socket) File() (dev, ino uint64) {
	s.changing.Lock()
	defer s.changing.Unlock()
	if s.file == nil {
		return 0, 0
	}
	return s.file.dev, s.file.ino
}

// IsAt reports whether fd, which it borrows, is a socket of the network and at the
// address of spec, as far as these can be compared: a host's name cannot.
func IsAt(spec Spec, fd *scmrights.FD) bool {
	n := networkOf(spec.Network)
	same := false
	_ = control(fd, func(num int) error {
		is, err := identify(num)
		if err != nil || n == nil || !is.in(n) {
			return err
		}
		same = sameAddress(spec.Address, is.address)
		return nil
	})
	return same
}

// sameAddress compares the address of a spec with one that was bound. No host is all of
// the machine.
func sameAddress(spec, bound string) bool {
	port, isAll := strings.CutPrefix(spec, ":")
	at, err := netip.ParseAddrPort(bound)
	if !isAll || err != nil {
		return spec == bound
	}
	return at.Addr().IsUnspecified() && fmt.Sprint(at.Port()) == port
}
