//go:build linux

package socket

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Figures are what the kernel counts for one socket.
type Figures struct {
	// Queue is how many connections wait to be accepted, or how many bytes of
	// packets to be received. Bytes of UDP include the kernel's own overhead; of
	// unixgram it tells only the size of the next packet.
	Queue uint32
	// Limit is where the kernel begins to refuse or drop, in the unit of Queue:
	// one connection more than Limit may wait. 0 means it has none or does not
	// tell: unixgram, and a TCP socket that does not listen (any more).
	Limit uint32
	// Drops is how many connection attempts or packets were dropped as the queue
	// was full, since the socket was made. A client that tries again is counted
	// again. The count has 32 bits and wraps. Unix sockets have none.
	Drops uint64
	// DropsKnown reports whether there is such a count.
	DropsKnown bool
	// Bytes reports that Queue and Limit count bytes, not connections.
	Bytes bool
}

// Figures asks the kernel for the figures of now (KERNEL §4). Those of the
// networks unix and unixpacket can only be read in the network namespace in
// which the socket was opened. Those of [AdoptAny] have none, which is
// [errors.ErrUnsupported].
func (s *Socket) Figures() (Figures, error) { return s.figures(nil) }

// FiguresOf returns what Figures returns for each of sockets. It asks the kernel once
// for all that are of unix and unixpacket: to find one of them it looks through all that
// there are.
func FiguresOf(sockets []*Socket) ([]Figures, []error) {
	figures, errs := make([]Figures, len(sockets)), make([]error, len(sockets))
	n := 0
	for _, s := range sockets {
		if s.network().in(connNets &^ tcpNets) {
			n++
		}
	}
	var queues map[uint64]unixFigures
	if n > 1 {
		queues = unixQueues(n)
	}
	for i, s := range sockets {
		figures[i], errs[i] = s.figures(queues)
	}
	return figures, errs
}

// figures is Figures with what is known already of Unix sockets, by cookie.
func (s *Socket) figures(queues map[uint64]unixFigures) (f Figures, err error) {
	n := s.network()
	if n.in(anyNet) {
		return f, errors.ErrUnsupported
	}
	err = control(s.fd, func(fd int) error {
		switch {
		case n.in(tcpNets):
			f, err = tcpFigures(fd)
		case n.in(udpNets):
			f, err = udpFigures(fd)
		case n.in(unixgramNet):
			f, err = packetFigures(fd)
		default:
			if q, known := queues[s.cookie]; known {
				f.Queue, f.Limit = q.queue, q.limit
			} else {
				f.Queue, f.Limit, err = unixQueue(s.inode, s.cookie)
			}
		}
		return err
	})
	return f, err
}

func tcpFigures(fd int) (Figures, error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return Figures{}, os.NewSyscallError("getsockopt", err)
	}
	mem, err := memInfo(fd)
	f := Figures{Drops: uint64(mem.drops), DropsKnown: true}
	if info.State == tcpListen { // otherwise the fields mean something else
		f.Queue, f.Limit = info.Unacked, info.Sacked
	}
	return f, err
}

func udpFigures(fd int) (Figures, error) {
	mem, err := memInfo(fd)
	return Figures{Queue: mem.received, Limit: mem.receiveBuffer, Drops: uint64(mem.drops), DropsKnown: true, Bytes: true}, err
}

// packetFigures are those of unixgram. The memory of its packets is counted for
// the sender, so SO_MEMINFO has nothing, and unix_diag tells no more than this.
func packetFigures(fd int) (Figures, error) {
	next, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
	return Figures{Queue: uint32(next), Bytes: true}, os.NewSyscallError("ioctl", err)
}

// sockMemInfo is what SO_MEMINFO returns: the SK_MEMINFO_* of linux/sock_diag.h.
type sockMemInfo struct {
	received      uint32
	receiveBuffer uint32
	_             [6]uint32
	drops         uint32
}

// memInfo returns SO_MEMINFO (≥ 4.12), which x/sys has no function for.
func memInfo(fd int) (mem sockMemInfo, err error) {
	size := uint32(unsafe.Sizeof(mem))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&mem)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return mem, os.NewSyscallError("getsockopt", errno)
	}
	return mem, nil
}
