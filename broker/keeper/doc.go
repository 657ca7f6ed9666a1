// Package keeper is the store of a broker that no service manager keeps one for: the
// parent process that holds its descriptors, starts it, and starts it again. What they
// are, and what the broker does with them, is not its business: it must stay too small
// to crash.
//
// The broker tells it what to keep in the protocol of sd_notify(3), over a pair of
// sockets (SOCK_SEQPACKET): FDSTORE=1 with FDNAME= and one descriptor, FDSTOREREMOVE=1
// with FDNAME=. All else it tells is for the service manager of the keeper, if there is
// one. Each broker that is started gets everything as sd_listen_fds(3) has it, its end
// of the pair last.
package keeper
