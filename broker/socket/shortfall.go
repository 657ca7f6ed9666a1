package socket

import (
	"fmt"

	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"golang.org/x/sys/unix"
)

// Shortfalls returns what a socket of s gets less of than s says, because the kernel has a limit: a few words for each.
// It asks the kernel as this process, with a socket of its own.
func Shortfalls(s spec.Spec) (all []string) {
	o, n := s.Opts(), spec.NetworkOf(s.Network)
	if most := somaxconn(); o.Backlog > most {
		all = append(all, fmt.Sprintf("backlog=%d is more than net.core.somaxconn: the kernel gives %d", o.Backlog, most))
	}
	for _, buffer := range [2]struct {
		sockopt
		sysctl string
	}{
		{sockopt{name: "rcvbuf", level: unix.SOL_SOCKET, number: unix.SO_RCVBUF, value: o.RcvBuf}, "rmem_max"},
		{sockopt{name: "sndbuf", level: unix.SOL_SOCKET, number: unix.SO_SNDBUF, value: o.SndBuf}, "wmem_max"},
	} {
		if buffer.value == 0 {
			continue
		}
		if has := trial(n, buffer.sockopt) / 2; has > 0 && has < buffer.value {
			all = append(all, fmt.Sprintf("%s=%d is more than net.core.%s, which only CAP_NET_ADMIN may exceed: the kernel gives %d",
				buffer.name, buffer.value, buffer.sysctl, has))
		}
	}
	const ecn = 3
	if o.TOS&ecn != 0 && n.In(spec.TCP) {
		all = append(all, fmt.Sprintf("tos=%d: TCP keeps the two lowest bits for itself (ECN)", o.TOS))
	}
	return all
}

// trial returns the value that an option has on a new socket of n after it was set, or 0.
func trial(n *spec.Network, o sockopt) int {
	fd, err := unix.Socket(unix.AF_INET, n.Type|unix.SOCK_CLOEXEC, n.Protocol)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	if o.set(fd) != nil {
		return 0
	}
	value, _ := unix.GetsockoptInt(fd, o.level, o.number)
	return value
}
