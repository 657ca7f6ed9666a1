// Package registry keeps the books of a broker: names and their listeners, grants, requests that
// wait, drain fences, deploys and watchers. It decides who gets what.
//
// All of it is guarded by one lock, which lives inside the package: each method takes it, says what happens, and lets
// go. Under the lock the registry touches memory, the journal, and sockets with system calls that cannot block. It
// never does I/O with a client, never writes a log and never opens or closes a listening socket: what happened under
// the lock is reported after it was released.
package registry
