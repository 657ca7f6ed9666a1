// Package scmrights sends and receives open file descriptors over Unix stream sockets, with
// SCM_RIGHTS control messages (unix(7)). It knows descriptors and the bytes that they travel
// with, and nothing else: framing, naming and access rules belong to its callers.
//
// Three words say who closes a descriptor, here and in the packages above: a function that
// takes a descriptor closes it, even if it fails; one that borrows it leaves it to the
// caller; one that returns it expects the caller to close it.
//
// Every descriptor is close-on-exec from birth. This package must never register one with
// the runtime's poller. It must never change O_NONBLOCK, which all duplicates of a socket
// share, except on the control connection that [Stream.File] hands over.
package scmrights
