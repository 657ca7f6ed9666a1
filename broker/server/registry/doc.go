// Package registry has the records of a broker: names and their listeners, grants, requests that
// wait, drain fences, deploys and watchers. It decides which process gets what.
//
// One lock guards all of it. It lives inside the package: each exported method takes and releases it. Under the lock the
// registry touches memory, the journal, and sockets with system calls that cannot block. It never does I/O with a
// client, never writes a log, and never opens or closes a listening socket: events are reported after the lock was
// released.
package registry
