// Package realservers runs real servers on a broker's listeners. It has only tests and their data: the rows of the
// table in docs/servers.md, each with the fdclient line and the files that docs/servers.md shows, what the server does
// to a listener that it shares, and restarts of it under load.
//
// A server that is not installed skips its test, which names the package; with
// CI=true in the environment it fails it. To write the table anew:
//
//	go test ./internal/realservers -run TestDocs -update
package realservers
