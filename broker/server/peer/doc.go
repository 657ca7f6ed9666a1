// Package peer knows which process is at the other end of a connection, and when that process ends: its credentials, a
// pidfd of it, and an identity that no later process with the same pid shares.
//
// It reads socket options and /proc, opens pidfds, and sends a process the signal that
// its user has chosen. It must never read from or write to a connection, decide on
// a user's rights, or act on a pid if a pidfd of the process can be had.
package peer
