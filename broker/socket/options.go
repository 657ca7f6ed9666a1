package socket

import (
	"math"
	"os"
	"strconv"
	"strings"

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

// fixed returns s with only those options that cannot change.
func fixed(s spec.Spec) spec.Spec {
	o := s.Opts()
	s.Options = &spec.Options{
		Mode: o.Mode, User: o.User, Group: o.Group,
		V6Only: o.V6Only, FreeBind: o.FreeBind, Transparent: o.Transparent, Device: o.Device,
	}
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

func reusePort(on bool) sockopt {
	return sockopt{name: "SO_REUSEPORT", level: unix.SOL_SOCKET, number: unix.SO_REUSEPORT, value: toInt(on)}
}

// addressOptions sets more, and those options of s that decide which addresses a socket can have.
func addressOptions(fd int, s spec.Spec, is6 bool, more ...sockopt) error {
	o := s.Opts()
	level, freebind, transparent := unix.SOL_IP, unix.IP_FREEBIND, unix.IP_TRANSPARENT
	if is6 {
		level, freebind, transparent = unix.SOL_IPV6, unix.IPV6_FREEBIND, unix.IPV6_TRANSPARENT
	}
	if o.FreeBind {
		more = append(more, sockopt{name: "freebind", level: level, number: freebind, value: 1})
	}
	if o.Transparent {
		more = append(more, sockopt{name: "transparent", level: level, number: transparent, value: 1})
	}
	if err := setOptions(fd, more); err != nil || o.Device == "" {
		return err
	}
	return spec.Refused("device", "setsockopt", unix.BindToDevice(fd, o.Device))
}
