package socket

import (
	"cmp"
	"errors"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"golang.org/x/sys/unix"
)

// A sockopt is a socket option that an option of a spec asks for.
type sockopt struct {
	name                 string
	level, number, value int
	// text is the value instead of a number, if the kernel wants one.
	text string
}

// changes returns those options that a socket takes at any time, if is and to differ. They must be set before bind: some
// decide which addresses a socket can have, and accepted sockets inherit most of the others.
func changes(is, to *spec.Options) []sockopt {
	was := settings(is)
	return slices.DeleteFunc(settings(to), func(o sockopt) bool { return slices.Contains(was, o) })
}

// settings returns the options that a socket of o takes at any time. Most are those of TCP, and zero of other networks.
func settings(o *spec.Options) []sockopt {
	return []sockopt{
		{name: "freebind", level: unix.SOL_IP, number: unix.IP_FREEBIND, value: toInt(o.FreeBind)},
		{name: "transparent", level: unix.SOL_IP, number: unix.IP_TRANSPARENT, value: toInt(o.Transparent)},
		{name: "device", level: unix.SOL_SOCKET, number: unix.SO_BINDTODEVICE, text: o.Device},
		{name: "mark", level: unix.SOL_SOCKET, number: unix.SO_MARK, value: int(o.Mark)},
		{name: "defer-accept", level: unix.SOL_TCP, number: unix.TCP_DEFER_ACCEPT, value: int(o.DeferAccept / time.Second)},
		{name: "fastopen", level: unix.SOL_TCP, number: unix.TCP_FASTOPEN, value: o.FastOpen},
		{name: "nodelay", level: unix.SOL_TCP, number: unix.TCP_NODELAY, value: toInt(o.NoDelay)},
		{name: "keepalive", level: unix.SOL_SOCKET, number: unix.SO_KEEPALIVE, value: toInt(o.KeepAlive)},
		{name: "keepalive", level: unix.SOL_TCP, number: unix.TCP_KEEPIDLE, value: int(o.Probes.Idle)},
		{name: "keepalive", level: unix.SOL_TCP, number: unix.TCP_KEEPINTVL, value: int(o.Probes.Interval)},
		{name: "keepalive", level: unix.SOL_TCP, number: unix.TCP_KEEPCNT, value: int(o.Probes.Count)},
		{name: "user-timeout", level: unix.SOL_TCP, number: unix.TCP_USER_TIMEOUT, value: int(o.UserTimeout / time.Millisecond)},
		{name: "congestion", level: unix.SOL_TCP, number: unix.TCP_CONGESTION, text: o.Congestion},
		{name: "tos", level: unix.SOL_IP, number: unix.IP_TOS, value: int(o.TOS)},
		{name: "tos", level: unix.SOL_IPV6, number: unix.IPV6_TCLASS, value: int(o.TOS)},
		{name: "rcvbuf", level: unix.SOL_SOCKET, number: unix.SO_RCVBUF, value: int(o.RcvBuf)},
		{name: "sndbuf", level: unix.SOL_SOCKET, number: unix.SO_SNDBUF, value: int(o.SndBuf)},
	}
}

func setOptions(fd int, opts []sockopt) error {
	for _, o := range opts {
		if err := o.set(fd); err != nil {
			return err
		}
	}
	return nil
}

// set sets the option. The zero value of an option that has no number for the kernel's default is taken from a socket
// that is new.
func (o sockopt) set(fd int) error {
	var err error
	if o.level == unix.SOL_IP && is6(fd) { // these two have numbers of their own
		switch o.number {
		case unix.IP_FREEBIND:
			o.level, o.number = unix.SOL_IPV6, unix.IPV6_FREEBIND
		case unix.IP_TRANSPARENT:
			o.level, o.number = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
		}
	}
	switch {
	case o.number == unix.SO_BINDTODEVICE && o.level == unix.SOL_SOCKET:
		err = unix.BindToDevice(fd, o.text)
	case o.level == unix.SOL_IPV6 && o.number == unix.IPV6_TCLASS && !is6(fd): // an IPv4 socket has none
	case o.isBuffer():
		err = o.setBuffer(fd)
	case o.number == unix.TCP_CONGESTION && o.level == unix.SOL_TCP:
		err = o.setCongestion(fd)
	case o.value == 0 && o.level == unix.SOL_TCP && slices.Contains(probeOptions, o.number):
		o.value, err = defaultOf(fd, func(fresh int) (int, error) { return unix.GetsockoptInt(fresh, o.level, o.number) })
		err = cmp.Or(err, unix.SetsockoptInt(fd, o.level, o.number, o.value))
	default:
		err = unix.SetsockoptInt(fd, o.level, o.number, o.value)
	}
	return spec.Refused(o.name, "setsockopt", err)
}

// probeOptions is constant. The kernel takes no zero for them.
var probeOptions = []int{unix.TCP_KEEPIDLE, unix.TCP_KEEPINTVL, unix.TCP_KEEPCNT}

func (o sockopt) isBuffer() bool {
	return o.level == unix.SOL_SOCKET && (o.number == unix.SO_RCVBUF || o.number == unix.SO_SNDBUF)
}

// setBuffer sets the size of a buffer, beyond net.core.rmem_max and wmem_max if this process may. The kernel doubles the
// number. A buffer that is set does not grow by itself any more; the default one does, from Linux 5.14 on also again
// (SO_BUF_LOCK).
func (o sockopt) setBuffer(fd int) error {
	force, lock, size := unix.SO_RCVBUFFORCE, unix.SOCK_RCVBUF_LOCK, o.value
	if o.number == unix.SO_SNDBUF {
		force, lock = unix.SO_SNDBUFFORCE, unix.SOCK_SNDBUF_LOCK
	}
	if size == 0 {
		fresh, err := defaultOf(fd, func(fresh int) (int, error) { return unix.GetsockoptInt(fresh, o.level, o.number) })
		if err != nil {
			return err
		}
		size = fresh / 2
	}
	err := unix.SetsockoptInt(fd, o.level, force, size)
	if err == unix.EPERM {
		err = unix.SetsockoptInt(fd, o.level, o.number, size)
	}
	if err == nil && o.value == 0 {
		if locks, lerr := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BUF_LOCK); lerr == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BUF_LOCK, locks&^lock)
		}
	}
	return err
}

func (o sockopt) setCongestion(fd int) error {
	name := o.text
	if name == "" {
		var err error
		name, err = defaultOf(fd, func(fresh int) (string, error) {
			return unix.GetsockoptString(fresh, unix.SOL_TCP, unix.TCP_CONGESTION)
		})
		if err != nil {
			return err
		}
	}
	err := unix.SetsockoptString(fd, unix.SOL_TCP, unix.TCP_CONGESTION, name)
	var list string
	switch {
	case errors.Is(err, unix.ENOENT):
		list = "available"
	case errors.Is(err, unix.EPERM):
		list = "allowed"
	default:
		return err
	}
	list = "net.ipv4.tcp_" + list + "_congestion_control"
	has, _ := os.ReadFile("/proc/sys/" + strings.ReplaceAll(list, ".", "/"))
	return spec.Problemf(err, "option congestion: %q is not one of %s (%s)", name,
		strings.Join(strings.Fields(string(has)), ", "), list)
}

// defaultOf asks a new socket of the kind of fd.
func defaultOf[T any](fd int, ask func(fresh int) (T, error)) (value T, err error) {
	var kind [3]int
	for i, number := range [3]int{unix.SO_DOMAIN, unix.SO_TYPE, unix.SO_PROTOCOL} {
		if kind[i], err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, number); err != nil {
			return value, err
		}
	}
	fresh, err := unix.Socket(kind[0], kind[1]|unix.SOCK_CLOEXEC, kind[2])
	if err != nil {
		return value, err
	}
	defer unix.Close(fresh)
	return ask(fresh)
}

func is6(fd int) bool {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	return err == nil && domain == unix.AF_INET6
}

func toInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
