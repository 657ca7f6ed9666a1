// Package server is the engine of fdbroker: it owns the listeners, hands duplicates of their sockets to processes that
// may have them, and knows which process holds what. It accepts on none of them, and reads from none.
//
// The package wires the rooms below it: conn serves the control connections, registry records listeners and grants,
// bind changes what is bound, health repairs sockets, and journal outlives the broker. The methods of the protocol
// are here, in method_*.go. It keeps no state that a room could keep. Programs that only want a socket use the package
// broker.
package server
