//go:build linux

// Before main the runtime opens files of its own at 3 and 4, where sockets go, and starts
// what looks at them from time to time, to follow the limits of its cgroup. What takes so
// little of a processor has no use for that.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

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
