//go:build linux

package scmrights

import (
	"encoding/binary"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fewFDs is how many descriptors a message may have for its control data to need
// no memory of its own.
const fewFDs = 8

// sendmsg is sendmsg(2). A signal in between does not end it.
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

// recvmsg is recvmsg(2), with close-on-exec for what arrives. A signal in between
// does not end it. The peer's address, which unix.Recvmsg asks for, is of no use.
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

// parseRights returns every descriptor that it can find in oob, also where it
// returns an error: they are open in this process already.
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

// numbers appends the numbers of fds to nums, for use until release is called with
// as many of fds as numbers were appended.
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

func release(fds []*FD) {
	for _, f := range fds {
		f.release()
	}
}
