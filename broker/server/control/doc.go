// Package control makes the control socket of a broker: it checks and locks the path,
// removes the socket of a dead broker, or goes on with the socket of an earlier one, and
// listens.
//
// It may change the socket's file, its lock file, and their directory, which it makes if
// that is missing. It must never accept a connection, and never touch a file or a socket
// that is not a broker's.
package control
