//go:build linux

package protocol

import (
	"fmt"

	"github.com/fdbroker/fdbroker/scmrights"
)

// Pair returns the descriptors that came with a reply to Get in the order of names,
// which were asked for. The error, a *[MalformedError], is that got and fds are not
// just their sockets, in that order; fds stay the caller's to close.
func Pair(names []string, got []Socket, fds []*scmrights.FD) ([]*scmrights.FD, error) {
	if len(got) != len(names) || len(fds) != len(names) {
		return nil, &MalformedError{Reason: fmt.Sprintf("reply: %d sockets with %d descriptors for %d names", len(got), len(fds), len(names))}
	}
	paired, used := make([]*scmrights.FD, len(got)), make([]bool, len(fds))
	for i, g := range got {
		at := g.FileDescriptor
		if g.Name != names[i] || at < 0 || at >= len(fds) || used[at] {
			return nil, &MalformedError{Reason: fmt.Sprintf("reply: %q as descriptor %d where %q was asked for", g.Name, at, names[i])}
		}
		used[at] = true
		paired[i] = fds[at]
	}
	return paired, nil
}
