//go:build linux

package main

// A setup is one row of the table: how the square server is run.
type setup struct {
	name     string
	language string
	broker   bool   // a broker holds the listener "web"; else the server binds $ADDR itself
	workers  int    // how many times command is started
	command  string // a shell command, run in this directory with the built programs in $PATH
}

// setups are the rows of the table, and the cases of the test.
var setups = []setup{
	{"plain server", "Python", false, 1, `python3 server.py "$ADDR"`},
	{"plain server", "Go", false, 1, `worker -listen "$ADDR"`},
	{"server in a loop", "Python", false, 1, `sh loop.sh python3 server.py "$ADDR"`},
	{"server in a loop", "Go", false, 1, `sh loop.sh worker -listen "$ADDR"`},
	{"fdbroker + loop", "Python", true, 1, `sh loop.sh fdclient get --stdin web -- python3 worker.py`},
	{"fdbroker + loop", "Go", true, 1, `sh loop.sh worker`},
	{"fdbroker + two workers", "Python", true, 2, `sh loop.sh fdclient get --stdin web -- python3 worker.py`},
	{"fdbroker + two workers", "Go", true, 2, `sh loop.sh worker`},
}
