//go:build linux

package socket

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdbroker/fdbroker/internal/procfs"
	"github.com/fdbroker/fdbroker/scmrights"
)

// FromProcess returns a duplicate of a socket at which a process listens, or receives
// packets from anybody; the caller must close it. The address, which may be
// NETWORK://ADDRESS as in a spec, says which; where no socket is at all addresses of
// the machine, a host-less one stands for any with that port. It may be empty where
// there is only one. The process notices nothing. It takes the right to trace it
// (ptrace(2)). The error is one line that says what there is.
func FromProcess(pid int, address string) (*scmrights.FD, error) {
	matchers, err := matchersOf(address)
	if err != nil {
		return nil, err
	}
	who := fmt.Sprintf("pid %d (%s)", pid, procfs.Name(pid))
	open, err := listeningOf(pid)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", who, err)
	}
	chosen := choose(open, matchers)
	var there []string
	for i, o := range open {
		there = append(there, o.is.String())
		if len(chosen) != 1 || chosen[0] != i {
			_ = o.fd.Close()
		}
	}
	switch {
	case len(chosen) == 1:
		return open[chosen[0]].fd, nil
	case len(there) == 0:
		return nil, fmt.Errorf("%s has no listening socket", who)
	case len(chosen) == 0:
		return nil, fmt.Errorf("%s does not listen at %s; it does at %s", who, address, strings.Join(there, ", "))
	}
	return nil, fmt.Errorf("%s listens at %s: say which of them is meant by its address", who, strings.Join(there, ", "))
}

// choose returns the indices of those that the first of matchers that matches any does.
func choose(open []opened, matchers []func(identity) bool) (chosen []int) {
	for _, matches := range matchers {
		for i, o := range open {
			if matches(o.is) {
				chosen = append(chosen, i)
			}
		}
		if len(chosen) > 0 {
			return chosen
		}
	}
	return nil
}

// matchersOf returns what tells whether a socket is at an address, the strictest first.
func matchersOf(address string) ([]func(identity) bool, error) {
	if address == "" {
		return []func(identity) bool{func(identity) bool { return true }}, nil
	}
	n, address, err := parseAddress(address)
	if err != nil {
		return nil, err
	}
	if n.in(unixNets) {
		return []func(identity) bool{func(is identity) bool { return is.in(n) && is.address == address }}, nil
	}
	ends, err := endpoints(n, Spec{Network: n.name, Address: address})
	if err != nil {
		return nil, err
	}
	all := []func(identity) bool{func(is identity) bool { return is.in(n) && slices.ContainsFunc(ends, is.isEnd) }}
	if strings.HasPrefix(address, ":") {
		all = append(all, func(is identity) bool { return is.in(n) && strings.HasSuffix(is.address, address) })
	}
	return all, nil
}

// opened is a descriptor taken from a process, and what it is.
type opened struct {
	fd *scmrights.FD
	is identity
}

// listeningOf returns the sockets that can be a listener's, of those that a process
// has open; the caller must close them.
func listeningOf(pid int) (all []opened, err error) {
	if _, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)); err != nil {
		return nil, explainTrace(err)
	}
	deadline := time.Now().Add(searchTime)
	seen := make(map[string]bool)
	var denied error
	eachSocket(pid, deadline, func(number int, link string) {
		if seen[link] {
			return
		}
		seen[link] = true
		fd, err := take(sighting{pid, number})
		if err != nil {
			if !errors.Is(err, unix.EBADF) { // closed since
				denied = explainTrace(err)
			}
			return
		}
		o := opened{fd: fd}
		if control(fd, func(n int) error { o.is, err = acceptor(n); return err }) != nil {
			_ = fd.Close()
			return
		}
		all = append(all, o)
	})
	if len(all) == 0 && denied != nil {
		return nil, denied
	}
	return all, nil
}

// acceptor returns what a socket is, and an error where it takes no connections, or
// packets from one peer only.
func acceptor(fd int) (identity, error) {
	is, err := identify(fd)
	if err != nil {
		return is, err
	}
	if _, err := unix.Getpeername(fd); err == nil {
		return is, errors.New("it is connected")
	}
	return is, nil
}

// explainTrace says what looking into another process takes.
func explainTrace(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ESRCH):
		return errors.New("there is no such process")
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s (its user may do that where Yama lets it, and root)", deniedTo("take a descriptor from it"))
	}
	return err
}
