// Package sockdiag asks the kernel about sockets: the address of a descriptor, which sockets have an address, and how
// full queues are.
//
// It may use sock_diag(7), getsockopt(2) and ioctl(2). It never changes a socket, never opens one except for netlink,
// and never looks at processes. Sock_diag tells only of sockets in the network namespace of this process.
package sockdiag

import (
	"cmp"
	"encoding/binary"
	"errors"
	"os"
	"syscall"

	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// A Socket is the answer of sock_diag(7) for one socket. The zero Socket is none.
type Socket struct {
	Inode  uint32 // of the socket itself, in sockfs
	UID    uint32 // of its maker
	NoUID  bool   // that is not known
	Cookie uint64 // see SO_COOKIE in socket(7)
	Type   byte   // of a Unix socket: SOCK_STREAM and so on
	state  byte   // of one of an IP network

	Retired bool // see RetiredIndex
}

// attrTypeMask leaves out the two flags of an attribute's type (linux/netlink.h).
const attrTypeMask = 0x3fff

var errDiag = errors.New("sock_diag: malformed reply")

// Control calls use with the number of fd, which it borrows, and returns its error.
func Control(fd *scmrights.FD, use func(n int) error) (err error) {
	cerr := fd.Control(func(n uintptr) { err = use(int(n)) })
	return cmp.Or(cerr, err)
}

// Ask is Control for a use that has a result.
func Ask[T any](fd *scmrights.FD, use func(n int) (T, error)) (result T, err error) {
	cerr := fd.Control(func(n uintptr) { result, err = use(int(n)) })
	return result, cmp.Or(cerr, err)
}

// diag sends one request to the kernel and calls each with the body of every answer, which it may read until it
// returns. If all is false there is one answer or an error.
func diag(request []byte, all bool, each func(body []byte)) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return os.NewSyscallError("sock_diag", err)
	}
	defer unix.Close(fd)
	flags, room := uint16(unix.NLM_F_REQUEST), 512
	if all {
		flags, room = flags|unix.NLM_F_DUMP, 32<<10
	}
	head := unix.NlMsghdr{Len: uint32(unix.SizeofNlMsghdr + len(request)), Type: unix.SOCK_DIAG_BY_FAMILY, Flags: flags}
	msg, _ := binary.Append(nil, binary.NativeEndian, head)
	if err := unix.Sendto(fd, append(msg, request...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	buf := make([]byte, room)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		if done, err := eachMessage(buf[:n], each); done || err != nil || !all {
			return err
		}
	}
}

// eachMessage calls each with the body of every message in b, and returns whether the end of the answers was among
// them.
func eachMessage(b []byte, each func(body []byte)) (done bool, err error) {
	messages, err := syscall.ParseNetlinkMessage(b)
	for _, m := range messages {
		switch m.Header.Type {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR: // both have an error; that of the end is usually 0
			if len(m.Data) < 4 {
				return true, errDiag
			}
			if errno := -int32(binary.NativeEndian.Uint32(m.Data)); errno != 0 {
				return true, os.NewSyscallError("sock_diag", syscall.Errno(errno))
			}
			return true, nil
		}
		each(m.Data)
	}
	return false, os.NewSyscallError("sock_diag", err)
}

// absent gives the error of a request for all sockets the name of the module that answers such requests, if it says
// that the kernel has no such module.
func absent(module string, err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		return os.NewSyscallError(module, unix.ENOENT)
	}
	return err
}

// attribute returns the value of the attribute of that type, or nil.
func attribute(b []byte, want uint16) []byte {
	for len(b) >= unix.SizeofNlAttr {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofNlAttr || size > len(b) {
			return nil
		}
		if binary.NativeEndian.Uint16(b[2:])&attrTypeMask == want {
			return b[unix.SizeofNlAttr:size]
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return nil
}

// cookieOf returns a cookie, which sock_diag tells in two halves, the lower first.
func cookieOf(b []byte) uint64 {
	return uint64(binary.NativeEndian.Uint32(b)) | uint64(binary.NativeEndian.Uint32(b[4:]))<<32
}
