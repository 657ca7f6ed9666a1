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

	"github.com/fdbroker/fdbroker/scmrights"
)

// errForeign says that a socket is not one that a broker of this user has opened.
var errForeign = errors.New("no broker of this user has opened it")

// Retake takes fd, a socket that a broker of this user has opened by a spec like s,
// and that only others have held since, and returns it as that of s; the caller must
// close it. It must be at the very address of s, whose port must not be 0. It becomes
// what s says, but for O_NONBLOCK, which its holders share. The error is a
// [*BindError].
func Retake(s Spec, fd *scmrights.FD) (*Socket, error) {
	sock, err := retake(s, fd, 0)
	if err != nil {
		return nil, newBindError(s, errors.Join(err, fd.Close()))
	}
	return sock, nil
}

// retake is Retake of the socket with that cookie, unless it is 0. It borrows fd until
// it succeeds.
func retake(s Spec, fd *scmrights.FD, cookie uint64) (*Socket, error) {
	n := networkOf(s.Network)
	if n == nil {
		return nil, fmt.Errorf("there is no network %q", s.Network)
	}
	var file *socketFile
	sock, err := adopt(s, fd, func(is identity, num int) (err error) {
		has, err := unix.GetsockoptUint64(num, unix.SOL_SOCKET, unix.SO_COOKIE)
		if err != nil {
			return os.NewSyscallError("getsockopt", err)
		}
		ours, err := isMarked(num)
		switch {
		case err != nil:
			return err
		case !ours:
			return fmt.Errorf("the socket %s: %w", is, errForeign)
		case cookie != 0 && has != cookie:
			return errors.New("it is another socket by now")
		}
		file, err = is.at(n, s, num)
		return err
	})
	if err != nil {
		return nil, err
	}
	if sock.file = file; file != nil {
		file.keepSpare()
	}
	return sock, nil
}

// at returns an error where a socket is not at the address of s, and its file if it has
// one.
func (is identity) at(n *network, s Spec, fd int) (*socketFile, error) {
	elsewhere := fmt.Errorf("the socket is %s, and not at the address of the spec", is)
	if n.in(inetNets) {
		ends, err := endpoints(n, s)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(ends, is.isEnd) {
			return nil, elsewhere
		}
		return nil, nil
	}
	if is.address != s.Address {
		return nil, elsewhere
	}
	if strings.HasPrefix(s.Address, "@") {
		return nil, nil
	}
	file, _, err := findFile(s.Address)
	if err != nil {
		return nil, elsewhere
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	byFile, _ := unixSockets(s.Address, file)
	if !slices.ContainsFunc(byFile, func(d diagSocket) bool { return d.inode == uint32(st.Ino) }) {
		return nil, fmt.Errorf("the file at %s is not the one of the socket that was bound there", s.Address)
	}
	return file, nil
}

// isEnd reports whether a socket is bound to just that.
func (is identity) isEnd(end endpoint) bool {
	at, err := netip.ParseAddrPort(is.address)
	return err == nil && end.Port() != 0 && at == end.AddrPort && (!end.Addr().IsUnspecified() || is.v6only == end.v6only)
}

// Release closes the broker's descriptor and leaves the path of a Unix socket to who
// else has the socket: its holders, or the next broker.
func (s *Socket) Release() error {
	s.changing.Lock()
	s.file = nil
	s.changing.Unlock()
	return s.Close()
}
