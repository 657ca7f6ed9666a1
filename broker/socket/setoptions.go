//go:build linux

package socket

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// optionError says which option the kernel refused.
type optionError struct {
	option string
	err    error
}

func (e *optionError) Error() string { return fmt.Sprintf("option %s: %v", e.option, reason(e.err)) }
func (e *optionError) Unwrap() error { return e.err }

// bindOptions sets what must be set before bind: it decides what bind allows
// and conflicts with, and IPV6_V6ONLY cannot change later (KERNEL §16).
func bindOptions(fd int, s Spec, end endpoint) error {
	if end.Addr().Is6() {
		// Always said: net.ipv6.bindv6only has a say otherwise.
		if err := setInt(fd, "v6only", unix.SOL_IPV6, unix.IPV6_V6ONLY, toInt(end.v6only)); err != nil {
			return err
		}
	}
	return addressOptions(fd, s, end.Addr().Is6())
}

// addressOptions sets those of bindOptions that a bound socket takes as well.
func addressOptions(fd int, s Spec, is6 bool) error {
	o := s.options()
	level, freebind, transparent := unix.SOL_IP, unix.IP_FREEBIND, unix.IP_TRANSPARENT
	if is6 {
		level, freebind, transparent = unix.SOL_IPV6, unix.IPV6_FREEBIND, unix.IPV6_TRANSPARENT
	}
	if o.FreeBind {
		if err := setFlag(fd, "freebind", level, freebind); err != nil {
			return err
		}
	}
	if o.Transparent {
		if err := setFlag(fd, "transparent", level, transparent); err != nil {
			return err
		}
	}
	if o.Device != "" {
		if err := unix.BindToDevice(fd, o.Device); err != nil {
			return &optionError{"device", os.NewSyscallError("setsockopt", err)}
		}
	}
	return nil
}

// listenOptions sets what must be set before the first connection or packet
// comes: accepted sockets inherit most of it.
func listenOptions(fd int, s Spec) error { return changeOptions(fd, &defaults, s.options()) }

// changeOptions sets those options that a socket takes at any time, where is and to
// differ.
func changeOptions(fd int, is, to *Options) error {
	for _, opt := range []struct {
		name          string
		level, number int
		is, to        int
	}{
		{"mark", unix.SOL_SOCKET, unix.SO_MARK, int(is.Mark), int(to.Mark)},
		{"defer-accept", unix.SOL_TCP, unix.TCP_DEFER_ACCEPT, int(is.DeferAccept / time.Second), int(to.DeferAccept / time.Second)},
		{"fastopen", unix.SOL_TCP, unix.TCP_FASTOPEN, is.FastOpen, to.FastOpen},
		{"nodelay", unix.SOL_TCP, unix.TCP_NODELAY, toInt(is.NoDelay), toInt(to.NoDelay)},
		{"keepalive", unix.SOL_SOCKET, unix.SO_KEEPALIVE, toInt(is.KeepAlive), toInt(to.KeepAlive)},
	} {
		if opt.is == opt.to {
			continue
		}
		if err := setInt(fd, opt.name, opt.level, opt.number, opt.to); err != nil {
			return err
		}
	}
	return nil
}

func setFlag(fd int, name string, level, number int) error {
	return setInt(fd, name, level, number, 1)
}

func setInt(fd int, name string, level, number, value int) error {
	if err := unix.SetsockoptInt(fd, level, number, value); err != nil {
		return &optionError{name, os.NewSyscallError("setsockopt", err)}
	}
	return nil
}

func toInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
