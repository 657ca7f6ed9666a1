//go:build linux

package socket

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/scmrights"
)

// Open binds the socket of s and, where its network has connections, listens.
// The caller must close it. The error is a [*BindError]; nothing is left then,
// neither a descriptor nor a path.
//
// The socket is close-on-exec, and non-blocking without the option blocking.
// A TCP socket has SO_REUSEADDR, so that it can be bound while old connections
// linger, and listen again while accepted ones live (KERNEL §1). A UDP socket
// has not: there it would let a second process bind the same address and take
// the packets away. None has SO_REUSEPORT.
//
// A Unix path in the way is removed if it is a socket at which nobody answers.
// Resolving a host's name may block for some seconds.
func Open(s Spec) (*Socket, error) {
	sock, err := open(s)
	if err != nil {
		return nil, newBindError(s, err)
	}
	return sock, nil
}

// OpenBriefly is Open, but where somebody has the address the error only says so: to
// find out who it is takes a look at every process.
func OpenBriefly(s Spec) (*Socket, error) {
	n := networkOf(s.Network)
	if n != nil {
		brief := *n
		brief.brief = true
		n = &brief
	}
	sock, err := openAs(n, s)
	if err != nil {
		return nil, newBindError(s, err)
	}
	return sock, nil
}

func open(s Spec) (*Socket, error) { return openAs(networkOf(s.Network), s) }

func openAs(n *network, s Spec) (*Socket, error) {
	switch {
	case n == nil:
		return nil, fmt.Errorf("there is no network %q", s.Network)
	case n.in(inetNets):
		return openInet(n, s)
	case strings.HasPrefix(s.Address, "@"):
		return openAbstract(n, s)
	}
	return openPath(n, s)
}

// newSocket makes an unbound socket of n, close-on-exec from birth; the caller
// must close it.
func newSocket(n *network, s Spec, family int) (*scmrights.FD, error) {
	flags := unix.SOCK_CLOEXEC
	if !s.options().Blocking {
		flags |= unix.SOCK_NONBLOCK
	}
	fd, err := unix.Socket(family, n.sotype|flags, n.protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return scmrights.NewFD(fd), nil
}

// listen makes a bound socket listen, where its network does, and returns its
// backlog as it became.
func listen(n *network, s Spec, fd int) (int, error) {
	if !n.in(connNets) {
		return 0, nil
	}
	limit := somaxconn()
	backlog := s.options().Backlog
	if backlog == 0 {
		backlog = limit
	}
	err := unix.Listen(fd, backlog)
	return min(backlog, limit), os.NewSyscallError("listen", err)
}

// newSocketOf takes fd, bound and listening, and its file, nil where it has none.
func newSocketOf(s Spec, address string, fd *scmrights.FD, backlog int, file *socketFile) (*Socket, error) {
	sock := &Socket{address: address, fd: fd, file: file}
	sock.setSpec(s)
	sock.backlog.Store(int32(backlog))
	var st unix.Stat_t
	err := control(fd, func(n int) (err error) {
		if sock.cookie, err = unix.GetsockoptUint64(n, unix.SOL_SOCKET, unix.SO_COOKIE); err != nil {
			return os.NewSyscallError("getsockopt", err)
		}
		mark(n)
		if err := sock.born(n); err != nil {
			return err
		}
		return os.NewSyscallError("fstat", unix.Fstat(n, &st))
	})
	if err != nil {
		return nil, errors.Join(err, sock.Close())
	}
	sock.inode = uint32(st.Ino) // sockfs has 32 bits of it
	return sock, nil
}

// somaxconn returns the kernel's cap on backlogs in this network namespace.
func somaxconn() int {
	const unread = 4096 // the kernel's own default (≥ 5.4)
	return min(sysctl("net/core/somaxconn", unread), math.MaxInt32)
}

// sysctl returns a number below /proc/sys, or otherwise where it cannot be read.
func sysctl(name string, otherwise int) int {
	// Not os.ReadFile: this is read for each listener, of which there may be thousands.
	fd, err := unix.Open("/proc/sys/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return otherwise
	}
	defer unix.Close(fd)
	var text [32]byte // a number fits, and such files are read at once
	n, err := unix.Read(fd, text[:])
	if err != nil {
		return otherwise
	}
	n, err = strconv.Atoi(strings.TrimSpace(string(text[:n])))
	if err != nil {
		return otherwise
	}
	return n
}
