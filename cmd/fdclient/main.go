//go:build linux

// Command fdclient asks a running fdbroker for sockets and tells it what to bind.
// See "fdclient --help".
package main

import (
	"context"
	"os"
	"runtime"
)

// main leaves all signals alone: what it was told to ignore, a command that it
// becomes ignores too, as far as Go allows.
func main() {
	// PR_SET_PDEATHSIG, which a supervisor may have set, survives an exec by the
	// main thread only.
	runtime.LockOSThread()
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}
