//go:build linux

package scmrights

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sendAll sends b with fds, and returns the rest that was not sent. The error is
// [ErrWouldBlock] if the socket's buffer is full.
func sendAll(fd int, b []byte, fds []*FD) ([]byte, []*FD, error) {
	for {
		n, err := send(fd, b, fds)
		if b = b[n:]; n > 0 {
			fds = nil
		}
		if err != nil || len(b) == 0 {
			return b, fds, err
		}
	}
}

// send is one sendmsg(2) of b and fds. The descriptors were sent if n > 0.
func send(fd int, b []byte, fds []*FD) (n int, err error) {
	var few [8]int // more descriptors need memory of their own
	nums, err := numbers(few[:0], fds)
	defer func() {
		for _, f := range fds[:len(nums)] {
			f.release()
		}
	}()
	if err != nil {
		return 0, fmt.Errorf("send: %w", err)
	}
	var space [64]byte
	n, errno := sendmsg(fd, b, appendRights(space[:0], nums))
	switch errno {
	case 0:
		return n, nil
	case unix.EAGAIN:
		return 0, ErrWouldBlock
	default:
		return 0, os.NewSyscallError("sendmsg", errno)
	}
}

// receive is one recvmsg(2) with room for limit descriptors; see [Conn.Recv]. If nothing has
// arrived the error is [ErrWouldBlock].
func receive(fd int, b []byte, limit int) (n int, fds []*FD, err error) {
	var space [320]byte // enough for the descriptors of one call
	oob := space[:0]
	if limit > 0 {
		oob = slices.Grow(oob, unix.CmsgSpace(4*limit))[:unix.CmsgSpace(4*limit)]
	}
	n, oobn, flags, errno := recvmsg(fd, b, oob, 0)
	switch errno {
	case 0:
	case unix.EAGAIN:
		return 0, nil, ErrWouldBlock
	default:
		return 0, nil, os.NewSyscallError("recvmsg", errno)
	}
	fds, err = parseRights(oob[:oobn])
	switch {
	case err != nil:
	case flags&unix.MSG_CTRUNC != 0 && len(fds) < limit:
		err = fmt.Errorf("%w (%w)", unix.EMFILE, ErrTooMany) // more than this process may open
	case flags&unix.MSG_CTRUNC != 0 || len(fds) > limit: // alignment makes room for one more than an odd limit
		err = ErrTooMany
	case n == 0 && len(b) > 0:
		err = io.EOF
	}
	if err != nil {
		CloseAll(fds)
		return 0, nil, err
	}
	return n, fds, nil
}

// sendmsg is sendmsg(2). It goes on after a signal.
func sendmsg(fd int, b, oob []byte) (int, unix.Errno) {
	msg, iov := unix.Msghdr{}, unix.Iovec{Base: unsafe.SliceData(b)}
	iov.SetLen(len(b))
	msg.Iov = &iov
	msg.SetIovlen(1)
	if len(oob) > 0 {
		msg.Control = unsafe.SliceData(oob)
		msg.SetControllen(len(oob))
	}
	for {
		n, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&msg)), unix.MSG_NOSIGNAL)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

// recvmsg is recvmsg(2), with close-on-exec for the descriptors. It goes on after a signal.
// Unlike unix.Recvmsg it does not ask for the peer's address.
func recvmsg(fd int, b, oob []byte, flags int) (n, oobn, got int, errno unix.Errno) {
	msg, iov := unix.Msghdr{}, unix.Iovec{Base: unsafe.SliceData(b)}
	iov.SetLen(len(b))
	msg.Iov = &iov
	msg.SetIovlen(1)
	for {
		if len(oob) > 0 {
			msg.Control = unsafe.SliceData(oob)
			msg.SetControllen(len(oob))
		}
		r, _, errno := unix.Syscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&msg)), uintptr(unix.MSG_CMSG_CLOEXEC|flags))
		if errno != unix.EINTR {
			return int(r), int(msg.Controllen), int(msg.Flags), errno
		}
	}
}

// appendRights appends the control message that carries nums to oob.
func appendRights(oob []byte, nums []int) []byte {
	if len(nums) == 0 {
		return oob
	}
	at := len(oob)
	oob = append(oob, make([]byte, unix.CmsgSpace(4*len(nums)))...)
	h := unix.Cmsghdr{Level: unix.SOL_SOCKET, Type: unix.SCM_RIGHTS}
	h.SetLen(unix.CmsgLen(4 * len(nums)))
	copy(oob[at:], unsafe.Slice((*byte)(unsafe.Pointer(&h)), unix.SizeofCmsghdr)) // oob need not be aligned
	data := oob[at+unix.CmsgLen(0):]
	for i, n := range nums {
		binary.NativeEndian.PutUint32(data[4*i:], uint32(n))
	}
	return oob
}

// parseRights returns every descriptor that it finds in oob, even if it returns an error:
// they are open in this process already.
func parseRights(oob []byte) (fds []*FD, err error) {
	for len(oob) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return fds, os.NewSyscallError("parse control message", err)
		}
		oob = rest
		if h.Level != unix.SOL_SOCKET || h.Type != unix.SCM_RIGHTS {
			continue
		}
		for ; len(data) >= 4; data = data[4:] {
			fds = append(fds, NewFD(int(int32(binary.NativeEndian.Uint32(data)))))
		}
	}
	return fds, nil
}

// numbers appends the numbers of fds to nums. The caller must release as many of fds as numbers were appended.
func numbers(nums []int, fds []*FD) ([]int, error) {
	for _, f := range fds {
		n, ok := f.acquire()
		if !ok {
			return nums, os.ErrClosed
		}
		nums = append(nums, n)
	}
	return nums, nil
}
