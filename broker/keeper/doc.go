// Package keeper is a file descriptor store for a broker whose service manager offers none. It is the broker's parent
// process: it holds the broker's descriptors, starts the broker, and starts it again if it ends.
//
// It may only hold descriptors, relay messages and signals, and start a program. It must
// never use the descriptors, and must stay too small to crash.
//
// The broker speaks the protocol of sd_notify(3) over a pair of sockets (SOCK_SEQPACKET):
// FDSTORE=1 with FDNAME= and one descriptor stores that, FDSTOREREMOVE=1 with FDNAME= removes
// it. The keeper relays all other messages to its own service manager, if it has one. Each
// broker that it starts gets everything as sd_listen_fds(3) has it, its end of the pair last.
package keeper
