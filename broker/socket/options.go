package socket

import (
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"golang.org/x/sys/unix"
)

// CanBecome reports whether [Socket.Become] can make s the socket of to: whether the two differ only in the options
// that grant it, its backlog, whether it blocks, and options that a socket takes at any time. An adopted socket can
// become that of any spec of its name.
func (s *Socket) CanBecome(to spec.Spec) bool {
	is := s.Spec()
	if s.adopted {
		return is.Name == to.Name
	}
	return fixed(is).Equal(fixed(to))
}

// fixed returns s without the options that can change.
func fixed(s spec.Spec) spec.Spec {
	o := *s.Opts()
	o.Allow, o.Max, o.Blocking = nil, 0, false
	o.Backlog, o.Mark, o.DeferAccept, o.FastOpen, o.NoDelay, o.KeepAlive = 0, 0, 0, 0, false, false
	s.Options = &o
	return s
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
		if err == nil && spec.NetworkOf(to.Network).In(spec.Inet) {
			err = setOptions(fd, changes(is.Opts(), to.Opts()))
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
	if limit := somaxconn(); s.Opts().Backlog == 0 || s.Opts().Backlog > limit {
		return limit
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

// A sockopt is a socket option that an option of a spec asks for.
type sockopt struct {
	name                 string
	level, number, value int
}

func (o sockopt) set(fd int) error {
	return spec.Refused(o.name, "setsockopt", unix.SetsockoptInt(fd, o.level, o.number, o.value))
}

func reusePort(on bool) sockopt {
	return sockopt{"SO_REUSEPORT", unix.SOL_SOCKET, unix.SO_REUSEPORT, toInt(on)}
}

// addressOptions sets more, and those options of s that decide which addresses a socket can have.
func addressOptions(fd int, s spec.Spec, is6 bool, more ...sockopt) error {
	o := s.Opts()
	level, freebind, transparent := unix.SOL_IP, unix.IP_FREEBIND, unix.IP_TRANSPARENT
	if is6 {
		level, freebind, transparent = unix.SOL_IPV6, unix.IPV6_FREEBIND, unix.IPV6_TRANSPARENT
	}
	if o.FreeBind {
		more = append(more, sockopt{"freebind", level, freebind, 1})
	}
	if o.Transparent {
		more = append(more, sockopt{"transparent", level, transparent, 1})
	}
	if err := setOptions(fd, more); err != nil || o.Device == "" {
		return err
	}
	return spec.Refused("device", "setsockopt", unix.BindToDevice(fd, o.Device))
}

// changes returns those options that a socket takes at any time, if is and to differ. They must be set before the first
// connection or packet comes, because accepted sockets inherit most of them.
func changes(is, to *spec.Options) []sockopt {
	opts := func(o *spec.Options) []sockopt {
		return []sockopt{
			{"mark", unix.SOL_SOCKET, unix.SO_MARK, int(o.Mark)},
			{"defer-accept", unix.SOL_TCP, unix.TCP_DEFER_ACCEPT, int(o.DeferAccept / time.Second)},
			{"fastopen", unix.SOL_TCP, unix.TCP_FASTOPEN, o.FastOpen},
			{"nodelay", unix.SOL_TCP, unix.TCP_NODELAY, toInt(o.NoDelay)},
			{"keepalive", unix.SOL_SOCKET, unix.SO_KEEPALIVE, toInt(o.KeepAlive)},
		}
	}
	was := opts(is)
	return slices.DeleteFunc(opts(to), func(o sockopt) bool { return slices.Contains(was, o) })
}

func setOptions(fd int, opts []sockopt) error {
	for _, o := range opts {
		if err := o.set(fd); err != nil {
			return err
		}
	}
	return nil
}

func toInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
