package main

// A setup is one row of the table: how the square server is run.
type setup struct {
	name     string
	language string
	broker   bool   // a broker holds the listener "web"; else the server binds $ADDR itself
	options  string // of that listener
	times    int    // how many times command is started
	command  string // a shell command, run in this directory with the built programs in $PATH
	serving  int    // how many workers serve at once
	long     bool   // 2,000 requests, of which five crash a worker, and a SIGHUP to the command in the middle
}

// setups are the rows of the table, and the cases of the test.
var setups = []setup{
	{name: "plain server", language: "Python", times: 1, serving: 1, command: `python3 server.py "$ADDR"`},
	{name: "plain server", language: "Go", times: 1, serving: 1, command: `worker -listen "$ADDR"`},
	{name: "server in a loop", language: "Python", times: 1, serving: 1, command: `sh loop.sh python3 server.py "$ADDR"`},
	{name: "server in a loop", language: "Go", times: 1, serving: 1, command: `sh loop.sh worker -listen "$ADDR"`},
	{name: "fdbroker + loop", language: "Python", broker: true, times: 1, serving: 1, command: `sh loop.sh fdclient get --stdin web -- python3 worker.py`},
	{name: "fdbroker + loop", language: "Go", broker: true, times: 1, serving: 1, command: `sh loop.sh worker`},
	{name: "fdbroker + two workers", language: "Python", broker: true, times: 2, serving: 2, command: `sh loop.sh fdclient get --stdin web -- python3 worker.py`},
	{name: "fdbroker + two workers", language: "Go", broker: true, times: 2, serving: 2, command: `sh loop.sh worker`},
	{name: "fdclient run -n 1", language: "Python", broker: true, times: 1, serving: 1, command: `fdclient run -n 1 --stdin web -- python3 worker.py`},
	{name: "fdclient run -n 1", language: "Go", broker: true, times: 1, serving: 1, command: `fdclient run -n 1 -- worker`},
	{name: "fdclient run -n 2", language: "Python", broker: true, times: 1, serving: 2, command: `fdclient run -n 2 --stdin web -- python3 worker.py`},
	{name: "fdclient run -n 2", language: "Go", broker: true, times: 1, serving: 2, command: `fdclient run -n 2 -- worker`},
	{name: "fdclient run -n 1 --standby 1", language: "Go", broker: true, options: ",max=1", times: 1, serving: 1, command: `fdclient run -n 1 --standby 1 -- worker -wait`},
	{name: "2,000 requests, all replaced", language: "Go", broker: true, times: 1, serving: 2, command: `fdclient run -n 2 --ready 20ms -- worker`, long: true},
}
