//go:build linux

package socket

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/scmrights"
)

// anyName is the network of a descriptor that need not be a listening socket.
const anyName = "any"

// anyNetwork is that network. It is not one of [networks], as nothing can be bound
// there: a socket of it comes from [AdoptAny]. It has the options that are the
// broker's business alone.
func anyNetwork() *network { return &network{name: anyName, bit: anyNet} }

// AdoptAny takes fd, which may be any descriptor, and returns it as the one of
// name; the caller must close it. The options are as they stand in a spec, such as
// "allow=any,max=2"; there are no others. Its network is "any", and its address says
// what it is: "pipe", "memfd", "socket", "file" and the like. O_NONBLOCK stays as it
// is, whatever the options say, and that is the listener's own setting from now on.
// The error is one line.
func AdoptAny(name, options string, fd *scmrights.FD) (*Socket, error) {
	sock, err := adoptAny(name, options, fd)
	if err != nil {
		_ = fd.Close()
		return nil, fmt.Errorf("%s: %w", quote(name), err)
	}
	return sock, nil
}

func adoptAny(name, options string, fd *scmrights.FD) (*Socket, error) {
	if err := checkDonation(name, options); err != nil {
		return nil, err
	}
	o := new(Options)
	if options != "" {
		var err error
		if o, err = parseOptions(anyNetwork(), options); err != nil {
			return nil, err
		}
	}
	sock, kind := &Socket{fd: fd}, ""
	err := control(fd, func(n int) (err error) {
		if kind, err = kindOf(n); err != nil {
			return err
		}
		flags, err := unix.FcntlInt(uintptr(n), unix.F_GETFL, 0)
		if err != nil {
			return os.NewSyscallError("fcntl", err)
		}
		o.Blocking = flags&unix.O_NONBLOCK == 0
		sock.cookie, err = unix.GetsockoptUint64(n, unix.SOL_SOCKET, unix.SO_COOKIE)
		if errors.Is(err, unix.ENOTSOCK) {
			return nil
		}
		return os.NewSyscallError("getsockopt", err)
	})
	if err != nil {
		return nil, err
	}
	sock.address = kind
	sock.setSpec(Spec{name, anyName, kind, o})
	return sock, nil
}

// Any reports whether the socket came from [AdoptAny]: it need not be one.
func (s *Socket) Any() bool { return s.Spec().Network == anyName }

// kindOf returns one word for what a descriptor refers to.
func kindOf(fd int) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", os.NewSyscallError("fstat", err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		return "socket", nil
	case unix.S_IFIFO:
		return "pipe", nil
	case unix.S_IFDIR:
		return "directory", nil
	case unix.S_IFCHR, unix.S_IFBLK:
		return "device", nil
	}
	// "anon_inode:[eventfd]", or "/memfd:NAME (deleted)" (proc_pid_fd(5)).
	link, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return "file", nil
	}
	if kind, anonymous := strings.CutPrefix(link, "anon_inode:"); anonymous {
		if kind = strings.Trim(kind, "[]"); isWord(kind) && kind != "" {
			return kind, nil
		}
		return "anonymous", nil
	}
	for _, kind := range []string{"memfd", "pidfd"} {
		if strings.HasPrefix(link, "/"+kind+":") || strings.HasPrefix(link, kind+":") {
			return kind, nil
		}
	}
	return "file", nil
}
