package socket

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/fdbroker/fdbroker/broker/socket/sockfile"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"golang.org/x/sys/unix"
)

// Foresee returns the error, a [*BindError], with which [Open] would fail on this machine just now, as far as that shows
// without the port or the path: an option that the kernel refuses, an address that no interface has, a directory that
// is missing. It may block as long as Open for a host's name.
func Foresee(s spec.Spec) error {
	o := opener{OpenConfig: OpenConfig{SkipHolders: true}, spec: s, network: spec.NetworkOf(s.Network)}
	err := o.foresee()
	if err != nil {
		return newBindError(s, err)
	}
	return nil
}

func (o *opener) foresee() error {
	if o.network.In(spec.Unix) {
		return o.foreseeUnix()
	}
	ends, err := o.spec.Endpoints()
	for _, end := range ends {
		end.AddrPort = netip.AddrPortFrom(end.Addr(), 0)
		if _, err = o.freePort(end); err == nil {
			break
		}
		err = o.explainInet(end, err)
	}
	return err
}

func (o *opener) foreseeUnix() error {
	if _, err := sockfile.OwnerOf(o.spec.Opts()); err != nil {
		return err
	}
	dir := filepath.Dir(o.spec.Address)
	if strings.HasPrefix(o.spec.Address, "@") || o.spec.Opts().MkDir != nil {
		return nil
	}
	if err := unix.Stat(dir, new(unix.Stat_t)); errors.Is(err, unix.ENOENT) {
		return spec.Problemf(err, "there is no directory %s (the option mkdir makes it)", dir)
	}
	return nil
}

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
		{sockopt{name: "rcvbuf", level: unix.SOL_SOCKET, number: unix.SO_RCVBUF, value: int(o.RcvBuf)}, "rmem_max"},
		{sockopt{name: "sndbuf", level: unix.SOL_SOCKET, number: unix.SO_SNDBUF, value: int(o.SndBuf)}, "wmem_max"},
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
