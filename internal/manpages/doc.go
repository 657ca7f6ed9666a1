// Package manpages checks the pages in docs/man against the output of the commands with
// --help, and writes the parts of them that are the same. To write them anew:
//
//	go test ./internal/manpages -update
package manpages
