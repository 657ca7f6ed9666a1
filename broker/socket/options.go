package socket

import (
	"cmp"
	"errors"
	"math"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/fdbroker/fdbroker/broker/socket/sockfile"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"golang.org/x/sys/unix"
)

// CanBecome reports whether [Socket.Become] can make s the socket of to: whether it has the address of to. An adopted
// socket can become that of any spec of its name. It may have to resolve a host's name.
func (s *Socket) CanBecome(to spec.Spec) bool {
	is := s.Spec()
	if s.adopted || is.Name != to.Name {
		return is.Name == to.Name
	}
	was, will := spec.NetworkOf(is.Network), spec.NetworkOf(to.Network)
	switch {
	case was == nil || will == nil || was.Type != will.Type || was.Protocol != will.Protocol:
		return false
	case was.In(spec.Unix):
		return was == will && is.Address == to.Address
	case will.In(spec.Unix):
		return false
	}
	return s.staysAt(is, to)
}

// Is reports whether to is the spec of s, or differs only in how it writes the address that s is bound to: a port as a
// number, which was 0.
func (s *Socket) Is(to spec.Spec) bool {
	is := s.Spec()
	if is.Equal(to) {
		return true
	}
	is.Address = to.Address
	return is.Equal(to) && !s.adopted && s.CanBecome(to)
}

// staysAt reports whether s, an IP socket of is, has the address that [Open] would bind for to.
func (s *Socket) staysAt(is, to spec.Spec) bool {
	if is.Network == to.Network && is.Address == to.Address && is.Opts().V6Only == to.Opts().V6Only {
		return true // a host's name stays what it was
	}
	ends, err := to.Endpoints()
	if err != nil {
		return false // Open says why
	}
	at, end := endpointOf(s.Address()), ends[0]
	if port := end.Port(); port != 0 && port != at.Port() || end.Addr() != at.Addr() {
		return false
	}
	if !at.Addr().Is6() || !at.Addr().IsUnspecified() {
		return true // IPV6_V6ONLY means nothing
	}
	return s.v6only == end.V6Only
}

// Become makes s the socket of to, which [Socket.CanBecome] must allow. It leaves the queue as it is, and O_NONBLOCK,
// which the holders share. On an error, a [*BindError], s is as it was.
func (s *Socket) Become(to spec.Spec) error {
	is := s.Spec()
	if is.Equal(to) {
		return nil
	}
	if err := s.become(is, to); err != nil {
		_ = s.become(to, is) // the options that are set already
		return newBindError(to, err)
	}
	return nil
}

func (s *Socket) become(is, to spec.Spec) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	return control(s.fd, func(fd int) error {
		backlog, err := s.Backlog(), error(nil)
		if s.adopted {
			_, backlog, err = applyTo(to, fd, nil)
		}
		if err == nil {
			err = s.changeOptions(fd, is, to)
		}
		if err == nil && !s.adopted && is.Opts().Backlog != to.Opts().Backlog {
			backlog, err = listen(to, fd)
		}
		if err != nil {
			return err
		}
		s.backlog.Store(int32(backlog))
		s.setSpec(to)
		return nil
	})
}

func (s *Socket) changeOptions(fd int, is, to spec.Spec) error {
	if !spec.NetworkOf(to.Network).In(spec.Inet) {
		return s.changeOwner(fd, is.Opts(), to.Opts())
	}
	anywhere := func(o *spec.Options) bool { return o.FreeBind || o.Transparent }
	if !s.adopted && anywhere(is.Opts()) && !anywhere(to.Opts()) {
		if err := checkLocal(s.Address()); err != nil {
			return err
		}
	}
	return setOptions(fd, changes(is.Opts(), to.Opts()))
}

// checkLocal returns an error if an address can be bound only with the option freebind or transparent: the next start
// would fail without them.
func checkLocal(address string) error {
	at := endpointOf(address)
	end := spec.Endpoint{AddrPort: netip.AddrPortFrom(at.Addr(), 0)}
	n, err := unix.Socket(end.Family(), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(n)
	if err := bindEndpoint(n, end); errors.Is(err, unix.EADDRNOTAVAIL) {
		return notLocal(err, at.Addr())
	}
	return nil
}

// changeOwner gives the socket's file the owners and the mode of to. What to leaves to the default becomes what a new
// file would have.
func (s *Socket) changeOwner(fd int, is, to *spec.Options) error {
	was, err := sockfile.OwnerOf(is)
	will, werr := sockfile.OwnerOf(to)
	if err := cmp.Or(err, werr); err != nil {
		return err
	}
	if s.adopted || s.file == nil || s.health.replaced {
		return nil
	}
	return will.Change(was, fd, s.Address())
}

// listen makes a bound socket of s listen, if its network does, and returns the backlog that it then has.
func listen(s spec.Spec, fd int) (int, error) {
	backlog := backlogOf(s)
	if backlog == 0 {
		return 0, nil
	}
	return backlog, os.NewSyscallError("listen", unix.Listen(fd, backlog))
}

// backlogOf returns the backlog of a socket of s: 0 if it does not listen.
func backlogOf(s spec.Spec) int {
	if !spec.NetworkOf(s.Network).In(spec.Listening) {
		return 0
	}
	return cappedBacklog(s, somaxconn())
}

func cappedBacklog(s spec.Spec, most int) int {
	if s.Opts().Backlog == 0 || s.Opts().Backlog > most {
		return most
	}
	return s.Opts().Backlog
}

// somaxconn returns the kernel's cap on backlogs in this network namespace.
func somaxconn() int {
	const unread = 4096 // the kernel's own default (≥ 5.4)
	return min(sysctl("net/core/somaxconn", unread), math.MaxInt32)
}

// sysctl returns a number below /proc/sys, or otherwise if it cannot be read.
func sysctl(name string, otherwise int) int {
	text, _ := os.ReadFile("/proc/sys/" + name)
	if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
		return n
	}
	return otherwise
}

func reusePort(on bool) sockopt {
	return sockopt{name: "SO_REUSEPORT", level: unix.SOL_SOCKET, number: unix.SO_REUSEPORT, value: toInt(on)}
}
