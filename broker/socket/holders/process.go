package holders

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/fdbroker/fdbroker/broker/socket/sockdiag"
	"github.com/fdbroker/fdbroker/broker/socket/spec"
	"github.com/fdbroker/fdbroker/internal/kernel"
	"github.com/fdbroker/fdbroker/internal/procfs"
	"github.com/fdbroker/fdbroker/scmrights"
	"golang.org/x/sys/unix"
)

// FromProcess returns a duplicate of a socket at which a process listens, or receives packets from any peer; the caller
// must close it. The address chooses one and may be NETWORK://ADDRESS as in a spec. An address without a host means all
// addresses of the machine or, if the process has no such socket, any socket with that port. The address may be empty
// if there is only one socket. The caller needs permission to trace the process (ptrace(2)). The error is one line that names
// the sockets that there are.
func FromProcess(pid int, address string) (*scmrights.FD, error) {
	exact, loose, err := matchersOf(address)
	if err != nil {
		return nil, err
	}
	process := fmt.Sprintf("pid %d (%s)", pid, procfs.Name(pid))
	all, err := listeningOf(pid)
	switch {
	case errors.Is(err, errGone):
		return nil, fmt.Errorf("there is no process %d", pid)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", process, err)
	}
	matches := exact
	if !slices.ContainsFunc(all, func(o opened) bool { return exact(o.is) }) {
		matches = loose
	}
	var chosen []*scmrights.FD
	var there []string
	for _, o := range all {
		there = append(there, o.is.String())
		if matches(o.is) {
			chosen = append(chosen, o.fd)
		} else {
			_ = o.fd.Close()
		}
	}
	if len(chosen) == 1 {
		return chosen[0], nil
	}
	scmrights.CloseAll(chosen)
	switch {
	case len(there) == 0:
		return nil, fmt.Errorf("%s has no listening socket", process)
	case len(chosen) == 0:
		return nil, fmt.Errorf("%s does not listen at %s; it does at %s", process, address, strings.Join(there, ", "))
	}
	return nil, fmt.Errorf("%s listens at %s; choose one with --address",
		process, strings.Join(there, ", "))
}

// A matcher reports whether a socket is at an address.
type matcher func(sockdiag.Identity) bool

// matchersOf returns the matcher of an address, and a looser one for the case that it matches no socket.
func matchersOf(address string) (exact, loose matcher, err error) {
	if address == "" {
		exact = func(sockdiag.Identity) bool { return true }
		return exact, exact, nil
	}
	n, address, err := spec.ParseAddress(address)
	if err != nil {
		return nil, nil, err
	}
	exact = func(is sockdiag.Identity) bool { return is.In(n) && is.Address == address }
	if n.In(spec.Unix) {
		return exact, exact, nil
	}
	ends, err := spec.Spec{Network: n.Name, Address: address}.Endpoints()
	exact = func(is sockdiag.Identity) bool { return is.In(n) && slices.ContainsFunc(ends, is.IsAt) }
	loose = func(is sockdiag.Identity) bool {
		return is.In(n) && address[0] == ':' && strings.HasSuffix(is.Address, address)
	}
	return exact, loose, err
}

// opened is a descriptor taken from a process, and its identity.
type opened struct {
	fd *scmrights.FD
	is sockdiag.Identity
}

// listeningOf returns those sockets of a process that can be a listener's; the caller must close them.
func listeningOf(pid int) (all []opened, err error) {
	if _, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)); err != nil {
		return nil, explainTrace(pid, err)
	}
	seen := make(map[uint32]bool)
	var denied error
	for number, inode := range sockets(pid, time.Now().Add(searchTime)) {
		if seen[inode] {
			continue
		}
		seen[inode] = true
		fd, err := Sighting{pid, number}.Take()
		if err != nil {
			if !errors.Is(err, unix.EBADF) { // closed since
				denied = explainTrace(pid, err)
			}
			continue
		}
		is, err := sockdiag.Ask(fd, receiver)
		if err != nil {
			_ = fd.Close()
			continue
		}
		all = append(all, opened{fd, is})
	}
	if len(all) == 0 && denied != nil {
		return nil, denied
	}
	return all, nil
}

// receiver returns the identity of a socket. It is an error if the socket takes no connections, or packets from one
// peer only.
func receiver(fd int) (sockdiag.Identity, error) {
	is, err := sockdiag.Identify(fd)
	if _, perr := unix.Getpeername(fd); err == nil && perr == nil {
		err = errors.New("it is connected")
	}
	return is, err
}

// errGone says that the process does not exist.
var errGone = errors.New("there is no such process")

// explainTrace says what keeps this process from taking a descriptor of another one.
func explainTrace(pid int, err error) error {
	exists := !errors.Is(unix.Kill(pid, 0), unix.ESRCH)
	switch why := kernel.Explain(err); {
	case errors.Is(err, unix.ESRCH), errors.Is(err, fs.ErrNotExist) && !exists:
		return errGone
	case errors.Is(err, fs.ErrPermission):
		return spec.Problemf(err, "%v: %s", spec.Denied(err, "take a descriptor from it"), why)
	case why != "":
		return spec.Problemf(err, "%s: %s", spec.Reason(err), why)
	}
	return err
}
