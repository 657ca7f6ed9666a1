package sockdiag

import (
	"errors"
	"os"
	"unsafe"

	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"golang.org/x/sys/unix"
)

// Figures are the kernel's counts for one socket (docs/kernel.md, Queue and drops).
type Figures struct {
	// Queue is how many connections wait to be accepted, or how many bytes of packets to be received. Bytes of UDP
	// include the kernel's own overhead; of unixgram it tells only the size of the next packet.
	Queue uint32
	// Limit is where the kernel begins to refuse or drop, in the unit of Queue: one connection more may wait. 0: there
	// is none, or the kernel does not tell (unixgram, and a TCP socket that does not listen now).
	Limit uint32
	// Drops is how many connection attempts or packets were dropped because the queue was full, since the socket was
	// made. A client that tries again is counted again. The count has 32 bits and wraps.
	Drops      uint64
	DropsKnown bool // Drops is counted: not for Unix sockets
	Bytes      bool // Queue and Limit count bytes, not connections
}

// FiguresOf returns the figures of fd, a socket of n with that inode and cookie. Those of a Unix socket that listens
// are taken from queues, if they are there. The error is [errors.ErrUnsupported] for a network without any.
func FiguresOf(n *spec.Network, fd int, inode uint32, cookie uint64, queues map[uint64]Queue) (Figures, error) {
	switch {
	case n.In(spec.TCP):
		return tcpFigures(fd)
	case n.In(spec.UDP):
		mem, err := memInfo(fd)
		f := Figures{Queue: mem.received, Limit: mem.receiveBuffer, Drops: uint64(mem.drops), DropsKnown: true, Bytes: true}
		return f, err
	case n.In(spec.Listening):
		q, known := queues[cookie]
		var err error
		if !known {
			q, err = unixQueue(inode, cookie)
		}
		return Figures{Queue: q.Waiting, Limit: q.Limit}, err
	case n.In(spec.Unix):
		// The memory of packets is counted for the sender, so SO_MEMINFO has nothing, and unix_diag tells no more than
		// this.
		next, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
		return Figures{Queue: uint32(next), Bytes: true}, os.NewSyscallError("ioctl", err)
	}
	return Figures{}, errors.ErrUnsupported
}

func tcpFigures(fd int) (Figures, error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return Figures{}, os.NewSyscallError("getsockopt", err)
	}
	mem, err := memInfo(fd)
	f := Figures{Drops: uint64(mem.drops), DropsKnown: true}
	if info.State == Listen { // otherwise the fields mean something else
		f.Queue, f.Limit = info.Unacked, info.Sacked
	}
	return f, err
}

// sockMemInfo is the result of SO_MEMINFO: the SK_MEMINFO_* of linux/sock_diag.h.
type sockMemInfo struct {
	received      uint32
	receiveBuffer uint32
	_             [6]uint32
	drops         uint32
}

// memInfo returns SO_MEMINFO (≥ 4.12), for which x/sys has no function.
func memInfo(fd int) (mem sockMemInfo, err error) {
	size := uint32(unsafe.Sizeof(mem))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&mem)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return mem, os.NewSyscallError("getsockopt", errno)
	}
	return mem, nil
}
