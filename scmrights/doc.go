// Package scmrights sends and receives open file descriptors over Unix stream
// sockets, with SCM_RIGHTS control messages (unix(7)).
//
// It knows about descriptors and about the bytes they travel with, and nothing
// else: framing, naming and access rules belong to its callers.
//
// Three words say who closes a descriptor, here and in the packages above:
// a function that takes one closes it, even when it fails; one that borrows one
// leaves it to the caller; one that returns one expects the caller to close it.
//
// Every descriptor is close-on-exec from birth. None is ever registered with
// the runtime's poller by this package, and O_NONBLOCK, which all duplicates of
// a socket share, is never changed but on the control connection that
// [Stream.File] hands over.
package scmrights
