// Package server is the engine of fdbroker: it owns the listeners, hands
// duplicates of their sockets to those who may have them, and knows who holds
// what. It accepts on none of them, and reads from none.
//
// A [Server] has a registry of listeners and grants, behind one lock that is
// never held across I/O with a client, and one goroutine for each connection to
// its control socket. It is not for programs that only want a socket: those use
// the package broker.
package server
