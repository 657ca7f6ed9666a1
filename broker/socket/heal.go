//go:build linux

package socket

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrBeyondRepair is the error of [Socket.Heal] if the kernel has no way to undo what was
// done to the socket or its path. Only another socket helps. Its text says what to do.
var ErrBeyondRepair = errors.New("cannot be repaired")

// healState is what [Socket.Heal] has to know.
type healState struct {
	queue                int32 // at the last look; -1: never looked
	reusePort, reuseAddr bool  // as they should be
	aside                bool  // another socket is about to have the path
}

// Heal looks for what a holder of s may have done to it at the cost of the others,
// undoes it, and returns what it was, a few words for each. It returns nil, nil for a
// socket that is well. The error says what could not be undone: [ErrBeyondRepair], or else
// something that may pass, such as that somebody else has the port now.
//
// Undone are shutdown(2) and connect(2), a backlog that differs, SO_REUSEPORT set and
// SO_REUSEADDR cleared, and a path that was removed. O_NONBLOCK is left as it is.
// Nothing is ever done to one from [AdoptAny].
func (s *Socket) Heal() (undone []string, err error) {
	n := s.network()
	if n.in(anyNet) {
		return nil, nil
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	err = control(s.fd, func(fd int) error {
		p := patient{s, n, fd, nil}
		err := p.heal()
		undone = p.undone
		return err
	})
	return undone, err
}

// patient is a socket while it is looked at.
type patient struct {
	*Socket
	network *network
	fd      int
	undone  []string
}

func (p *patient) found(what string) { p.undone = append(p.undone, what) }

func (p *patient) heal() error {
	var err error
	switch {
	case p.network.in(tcpNets):
		err = p.healTCP()
	case p.network.in(connNets):
		err = p.healUnix()
	default:
		err = p.healPacket()
	}
	if p.file != nil && !p.health.aside && !errors.Is(err, ErrBeyondRepair) {
		err = errors.Join(err, p.healPath())
	}
	return err
}

// healReuse undoes changes of the options that say who else may have the port. It
// comes before listening again, which SO_REUSEADDR allows while accepted connections
// live (KERNEL §1).
func (p *patient) healReuse() error {
	for _, o := range []struct {
		name         string
		number, want int
	}{{"SO_REUSEPORT", unix.SO_REUSEPORT, toInt(p.health.reusePort)}, {"SO_REUSEADDR", unix.SO_REUSEADDR, toInt(p.health.reuseAddr)}} {
		is, err := unix.GetsockoptInt(p.fd, unix.SOL_SOCKET, o.number)
		if err != nil {
			return os.NewSyscallError("getsockopt", err)
		}
		if is == o.want {
			continue
		}
		word := "set"
		if is == 0 {
			word = "cleared"
		}
		p.found(o.name + " " + word)
		if err := setInt(p.fd, o.name, unix.SOL_SOCKET, o.number, o.want); err != nil {
			return err
		}
	}
	return nil
}

func (p *patient) healTCP() error {
	if err := p.healReuse(); err != nil {
		return err
	}
	info, err := unix.GetsockoptTCPInfo(p.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	if info.State == tcpListen {
		p.health.queue = int32(min(info.Unacked, math.MaxInt32))
		return p.healBacklog(int(info.Sacked))
	}
	what := "shut down"
	if queue := p.health.queue; queue > 0 {
		what += fmt.Sprintf(", which reset what was queued: %d connections at the last look", queue)
	}
	if info.State != tcpClose { // a worker has connected it, too
		if err := disconnect(p.fd); err != nil {
			return err
		}
	}
	if err := p.bindAgain(); err != nil {
		return err
	}
	if err := unix.Listen(p.fd, p.Backlog()); err != nil {
		return p.explain(os.NewSyscallError("listen", err))
	}
	p.found(what)
	p.health.queue = 0
	return p.checkBound()
}

func (p *patient) healBacklog(is int) error {
	want := p.Backlog()
	if is == want {
		return nil
	}
	p.found(fmt.Sprintf("backlog %d instead of %d", is, want))
	return os.NewSyscallError("listen", unix.Listen(p.fd, want))
}

func (p *patient) healUnix() error {
	if p.isShut() {
		return p.beyondRepair("the socket of %s was shut down by a worker")
	}
	queue, limit, err := unixQueue(p.inode, p.cookie)
	if err != nil {
		return nil // it can only be asked in the network namespace where it was opened
	}
	p.health.queue = int32(min(queue, math.MaxInt32))
	return p.healBacklog(int(limit))
}

// beyondRepair returns an [ErrBeyondRepair] that says what has happened and what helps.
// Other sockets with a UDP port or an abstract name are in the way of a new one, so its
// workers must close theirs first.
func (p *patient) beyondRepair(what string) error {
	advice := "fdclient unbind %s, bind it again, and start its workers again"
	if p.network.in(udpNets) || strings.HasPrefix(p.Address(), "@") {
		advice = "stop its workers, fdclient unbind %s, then bind it again"
	}
	name := p.Name()
	return fmt.Errorf(what+" and %w: "+advice, name, ErrBeyondRepair, name)
}

func (p *patient) healPacket() error {
	if p.network.in(udpNets) {
		if err := p.healReuse(); err != nil {
			return err
		}
	}
	if p.isShut() {
		return p.beyondRepair("the socket of %s was shut down by a worker")
	}
	if _, err := unix.Getpeername(p.fd); err != nil {
		return nil // as it should be
	}
	if err := disconnect(p.fd); err != nil {
		return err
	}
	p.found("connected to one peer")
	if !p.network.in(udpNets) {
		return nil
	}
	if err := p.bindAgain(); err != nil {
		return err
	}
	return p.checkBound()
}

// isShut reports whether a socket was shut down for reading, for which the kernel has
// no other word (KERNEL §1).
func (p *patient) isShut() bool {
	fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&(unix.POLLRDHUP|unix.POLLHUP) != 0
}

// bindAgain binds a socket that was bound to port 0, and has lost its port. Another
// one still has it, which is EINVAL.
func (p *patient) bindAgain() error {
	end, err := endpointOf(p.Address())
	if err != nil {
		return err
	}
	if err = end.bind(p.fd); err == nil || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return p.explain(err)
}

// checkBound makes sure that the socket has its address.
func (p *patient) checkBound() error {
	is, err := boundTo(p.fd)
	if err != nil || is != p.Address() {
		return errors.Join(err, p.beyondRepair(fmt.Sprintf("the socket of %%s is bound to %q by now", is)))
	}
	return nil
}

func (p *patient) explain(err error) error {
	if !errors.Is(err, unix.EADDRINUSE) {
		return err
	}
	return fmt.Errorf("somebody else has %s: %w", p.Address(), err)
}

// WhoHas returns who has the address of s, in words, where that is not the broker. It
// may take seconds.
func (s *Socket) WhoHas() string {
	n := s.network()
	switch {
	case n.in(inetNets):
		end, err := endpointOf(s.Address())
		if err != nil {
			return err.Error()
		}
		return holdersOfInet(n, s.Spec(), end).inUse()
	case n.in(unixNets):
		file, _, _ := findFile(s.Address()) // nil for an abstract one
		return holdersOfUnix(s.Address(), file).inUse()
	}
	return ""
}

// disconnect undoes connect(2). To a TCP socket that listens it is a shutdown.
func disconnect(fd int) error {
	none := unix.RawSockaddr{Family: unix.AF_UNSPEC} // for which x/sys has no Sockaddr
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&none)), unsafe.Sizeof(none))
	if errno != 0 {
		return os.NewSyscallError("connect", errno)
	}
	return nil
}

// endpointOf returns the endpoint that a socket's address says.
func endpointOf(address string) (endpoint, error) {
	at, err := netip.ParseAddrPort(address)
	return endpoint{AddrPort: at}, err
}

// setReusePort changes SO_REUSEPORT for as long as the broker wants it so.
func (s *Socket) setReusePort(on bool) {
	s.changing.Lock()
	defer s.changing.Unlock()
	_ = control(s.fd, func(fd int) error {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, toInt(on)); err != nil {
			return err
		}
		s.health.reusePort = on
		return nil
	})
}

// born notes how a socket is that nobody has had yet.
func (s *Socket) born(fd int) error {
	s.health.queue = -1
	if !s.network().in(inetNets) {
		return nil
	}
	port, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	addr, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR)
	s.health.reusePort, s.health.reuseAddr = port != 0, addr != 0
	return os.NewSyscallError("getsockopt", err)
}
