//go:build linux

package protocol

import (
	"fmt"

	"github.com/fdbroker/fdbroker/scmrights"
)

// Handed returns the reply to Get that m is, and its descriptors in the order of names, which
// the caller asked for and must close. It closes them on an error, which may be the broker's.
func (m Message) Handed(names []string) (reply GetReply, fds []*scmrights.FD, err error) {
	if reply, err = ParseGetReply(m.Bytes); err == nil {
		fds, err = pair(names, reply.Sockets, m.FDs)
	}
	if err != nil {
		scmrights.CloseAll(m.FDs)
		return GetReply{}, nil, err
	}
	return reply, fds, nil
}

// ParseGetReply is [ParseReply] for a reply to Get.
func ParseGetReply(b []byte) (GetReply, error) {
	if reply, _, ok := DecodeGetReply(b); ok {
		return reply, nil
	}
	var reply GetReply
	if err := ParseReply(b, &reply); err != nil {
		return GetReply{}, err
	}
	return reply, nil
}

// pair returns fds in the order of names. If got and fds are not exactly their sockets, in
// that order, the error is a *[MalformedError].
func pair(names []string, got []Socket, fds []*scmrights.FD) ([]*scmrights.FD, error) {
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
