// Package bind is the only writer of the set of listeners: it opens, adopts, restores, recovers, alters
// and closes sockets, keeps them in the store, and changes the registry in one step.
//
// One change happens at a time. A change may block, for instance while a host's name is resolved, so it
// runs in the caller's goroutine and never under the registry's lock. Nothing else may call
// [registry.Registry.Apply]. The room never touches a connection and never decides about grants.
package bind
