// Package journal keeps what the next broker has to know of this one: the control socket,
// the listeners, the grants, and how this broker ended. It is a memfd that the store has a
// descriptor of too, so it outlives the broker.
//
// An update takes no system call and is atomic: the journal is right at any instant,
// whenever the broker is killed. The package writes to its memfd and nothing else. It must
// never judge what it records, look at processes or sockets, or fail because of what an
// earlier broker left.
package journal
