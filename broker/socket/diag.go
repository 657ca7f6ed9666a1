//go:build linux

package socket

import (
	"encoding/binary"
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A diagSocket is what sock_diag(7) tells of one socket.
type diagSocket struct {
	inode  uint32
	uid    uint32
	cookie uint64
	sotype byte // of a Unix socket
}

// attrTypeMask leaves out the two flags of an attribute's type (linux/netlink.h).
const attrTypeMask = 0x3fff

var errDiag = errors.New("sock_diag: malformed reply")

// diag sends one sock_diag(7) request to the kernel and calls each with the body
// of every answer, which it may read until it returns. Without all, there is one
// answer or an error. Only sockets of this network namespace are found.
func diag(request []byte, all bool, each func(body []byte)) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	flags, room := uint16(unix.NLM_F_REQUEST), 512
	if all {
		flags, room = flags|unix.NLM_F_DUMP, 32<<10
	}
	msg := make([]byte, 0, 128)
	msg = binary.NativeEndian.AppendUint32(msg, uint32(unix.SizeofNlMsghdr+len(request)))
	msg = binary.NativeEndian.AppendUint16(msg, unix.SOCK_DIAG_BY_FAMILY)
	msg = binary.NativeEndian.AppendUint16(msg, flags)
	msg = append(msg, make([]byte, 8)...) // sequence number and port: one request, one socket
	msg = append(msg, request...)
	if err := unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	buf := make([]byte, room)
	for done := false; !done; {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		if done, err = eachMessage(buf[:n], each); err != nil {
			return err
		}
		done = done || !all
	}
	return nil
}

// eachMessage calls each with the body of every message in b, and returns
// whether the last one was among them.
func eachMessage(b []byte, each func(body []byte)) (done bool, err error) {
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return true, errDiag
		}
		body := b[unix.SizeofNlMsghdr:size]
		switch binary.NativeEndian.Uint16(b[4:]) {
		case unix.NLMSG_DONE:
			return true, nil
		case unix.NLMSG_ERROR:
			if len(body) < 4 {
				return true, errDiag
			}
			return true, os.NewSyscallError("sock_diag", syscall.Errno(-int32(binary.NativeEndian.Uint32(body))))
		default:
			each(body)
		}
		b = b[min(align4(size), len(b)):]
	}
	return false, nil
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
		b = b[min(align4(size), len(b)):]
	}
	return nil
}

// diagCookie returns a cookie, which the kernel tells in two halves, the lower first.
func diagCookie(b []byte) uint64 {
	return uint64(binary.NativeEndian.Uint32(b)) | uint64(binary.NativeEndian.Uint32(b[4:]))<<32
}

func align4(n int) int { return (n + 3) &^ 3 }
