// Package conn serves the connections to the control socket: one event loop accepts, reads, frames
// calls, sends replies and keeps deadlines. A handler answers each call.
//
// The goroutine of the loop owns all connections, without a lock. It never waits: it reads what has arrived and sends
// what fits. A call that has to wait is parked, until the registry wakes its connection; work that may block runs in a
// goroutine of its own, which posts its result back to the loop, and so do the closes of descriptors that clients sent.
// The room knows bytes, deadlines and limits. It never touches a listener and decides nothing about grants.
package conn
