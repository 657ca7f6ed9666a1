package socket

import (
	"errors"
	"io/fs"
	"net/netip"
	"strings"

	"github.com/fdbroker/fdbroker/broker/socket/holders"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/kernel"
	"golang.org/x/sys/unix"
)

// BindError says why a socket could not be opened. [errors.Is] finds the kernel's error number in it if there was one.
type BindError struct {
	Spec    string            // the canonical text of the spec
	Holders []holders.Process // that have the address, if it is in use and they can be seen: at most five, by pid
	Err     error             // the cause
	Reason  string            // Error without the words that name the spec
}

// Error returns one line, with advice if there is any.
func (e *BindError) Error() string {
	head, _, _ := strings.Cut(e.Spec, ",") // an address has no comma
	return "cannot bind " + head + ": " + e.Reason
}

func (e *BindError) Unwrap() error { return e.Err }

// NewBindError returns the error of a spec that was not opened.
func NewBindError(s spec.Spec, err error) *BindError { return newBindError(s, err) }

func newBindError(s spec.Spec, err error) *BindError {
	be := &BindError{Spec: s.String(), Err: err, Reason: spec.Reason(err)}
	if inUse, ok := errors.AsType[*holders.InUseError](err); ok {
		be.Holders = inUse.Processes
	}
	if p, ok := errors.AsType[*spec.Problem](err); ok {
		be.Err, be.Reason = p.Err, p.Text
		return be
	}
	if hint := hintOf(err); hint != "" {
		be.Reason += " (" + hint + ")"
	}
	return be
}

// hintOf returns advice against errors that can come from any system call.
func hintOf(err error) string {
	switch {
	case errors.Is(err, unix.EMFILE):
		return "raise the limit of open files, ulimit -n"
	case errors.Is(err, unix.ENFILE):
		return "raise fs.file-max"
	case errors.Is(err, unix.ENODEV):
		return "there is no interface of that name"
	}
	needs := map[string]string{
		"mark": "needs CAP_NET_ADMIN", "transparent": "needs CAP_NET_ADMIN", "device": "needs CAP_NET_RAW",
		"user": "needs CAP_CHOWN", "group": "needs CAP_CHOWN",
	}
	if oe, ok := errors.AsType[*spec.OptionError](err); ok && errors.Is(err, fs.ErrPermission) {
		return needs[oe.Option]
	}
	return kernel.Explain(err)
}

func (o *opener) explainInet(end spec.Endpoint, err error) error {
	if _, ok := errors.AsType[*spec.OptionError](err); ok {
		return err
	}
	switch ip := end.Addr(); {
	case errors.Is(err, unix.EADDRINUSE) && end.Port() == 0:
		return spec.Problemf(err, "no port is free (net.ipv4.ip_local_port_range says which there are)")
	case errors.Is(err, unix.EADDRINUSE) && !o.SkipHolders:
		return holders.OfInet(o.spec, end, o.beside()...)
	case errors.Is(err, unix.EACCES) && end.Port() != 0 && int(end.Port()) < firstFreePort():
		return spec.Problemf(err, "permission denied (ports below %d need CAP_NET_BIND_SERVICE)", firstFreePort())
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return notLocal(err, ip)
	case errors.Is(err, unix.EAFNOSUPPORT) && ip.Is6():
		return spec.Problemf(err, "IPv6 is not available (the kernel lacks it, or this process may not use it)")
	case errors.Is(err, unix.EINVAL) && ip.Is6() && ip.IsLinkLocalUnicast() && ip.Zone() == "":
		return spec.Problemf(err, "a link-local address needs its interface: [%s%%INTERFACE]:%d", ip, end.Port())
	case errors.Is(err, unix.ENODEV) && ip.Zone() != "":
		return spec.Problemf(err, "there is no interface %q", ip.Zone())
	}
	return err
}

// beside returns the inodes of the sockets that may stay.
func (o *opener) beside() (inodes []uint32) {
	for _, sock := range o.Replacing {
		inodes = append(inodes, sock.inode)
	}
	return inodes
}

func notLocal(err error, ip netip.Addr) error {
	const advice = "the option freebind binds it anyway"
	return spec.Problemf(err, "no interface of this machine has the address %s (%s)", ip, advice)
}

// firstFreePort returns the lowest port that needs no privilege (ip(7)).
func firstFreePort() int { return sysctl("net/ipv4/ip_unprivileged_port_start", 1024) }
