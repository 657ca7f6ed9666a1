package realservers

import "syscall"

// What a server does to the O_NONBLOCK that it shares with all other holders.
const (
	sets   = "sets it"
	leaves = "leaves it"
)

// A row is a server of the table in docs/servers.md.
type row struct {
	name     string // in the table; also of the test
	packages string // Debian's, for apt-get install
	programs []string
	python   string // the modules that its python3 must have
	dir      string // of its files, in testdata
	files    []string

	line     string // what starts it, as a shell reads it
	listener string // that line asks for
	ask      func(address, dir string) (pid int, kind outcome, err error)
	stop     syscall.Signal // that ends it in good order

	nonblock string // what it does to O_NONBLOCK: sets or leaves
	backlog  int64  // of its own listen(2) on the shared socket; 0: it calls none
	mayDrop  bool   // it drops connections that it has accepted, when it stops

	notes string // what a reader must know, Markdown
}

const python3 = "python3"

// rows is the table. Where it changes: go test -run TestDocs -update.
var rows = []row{
	{
		name: "gunicorn", packages: "gunicorn", programs: []string{"gunicorn"}, dir: "gunicorn",
		files: []string{"app.py"},
		line:  "fdclient get web -- gunicorn -w 2 app:app", listener: "web",
		ask: askHTTP, stop: syscall.SIGTERM,
		nonblock: sets, backlog: 2048,
		notes: "It finds the sockets by `LISTEN_FDS` and ignores `-b` then, but `-b fd://3` makes it crash unless `fdclient get --no-listen-env` leaves the variables out (next row). " +
			"Its `--backlog` (2048) would be the queue limit of all who share the listener; the broker sets its own again. It sets `TCP_NODELAY` on it.",
	},
	{
		name: "gunicorn, by number", packages: "gunicorn", programs: []string{"gunicorn"}, dir: "gunicorn",
		line: "fdclient get --no-listen-env web -- gunicorn -w 2 -b fd://{fd} app:app", listener: "web",
		ask: askHTTP, stop: syscall.SIGTERM,
		nonblock: sets, backlog: 2048,
		notes: "As above. Given a Unix socket in this way, it removes the socket's path when it stops, which is not its to remove; by `LISTEN_FDS` it does not.",
	},
	{
		name: "uvicorn", packages: "uvicorn", programs: []string{"uvicorn"}, dir: "uvicorn",
		files: []string{"app.py"},
		line:  "fdclient get web -- uvicorn --fd {fd} app:app", listener: "web",
		ask: askHTTP, stop: syscall.SIGTERM,
		nonblock: sets, backlog: 2048, mayDrop: true,
		notes: "It does not know `LISTEN_FDS`, and takes one socket only. When it stops it closes every connection whose request it has not read yet: a client that " +
			"had connected an instant before sees the connection closed without an answer. In 170 restarts under load that was 5 of 17,063 requests; the test allows four each time. The next row avoids it.",
	},
	{
		name: "uvicorn, stopping softly", packages: "uvicorn", programs: []string{python3}, python: "uvicorn", dir: "uvicorn",
		files: []string{"serve.py"},
		line:  "fdclient get web -- python3 serve.py {fd}", listener: "web",
		ask: askHTTP, stop: syscall.SIGTERM,
		nonblock: sets, backlog: 2048,
		notes: "The same server in a program of its own, which stops accepting first and gives those who have connected half a second for their requests.",
	},
	{
		name: "nginx", packages: "nginx-light", programs: []string{"nginx"}, dir: "nginx",
		files: []string{"nginx.conf"},
		line:  "fdclient get web --drain-signal QUIT --env 'NGINX={fd};' -- nginx -p . -c nginx.conf -e error.log", listener: "web",
		ask: askHTTP, stop: syscall.SIGQUIT,
		nonblock: leaves,
		notes: "For two listeners: `--env 'NGINX={fd:web};{fd:adm};'`. Each `listen` must say the address as `fdclient addr` prints it, or nginx closes the socket and binds another. " +
			"It needs `O_NONBLOCK` to be set and does not set it: on a `blocking` listener SIGQUIT waits for the next connection. With `NGINX` set it stays in the foreground. " +
			"`master_process off` does not work. A `deferred` in its configuration changes the shared socket, and so do `backlog=` and `reuseport` until the broker undoes them: leave them out.",
	},
	{
		name: "HAProxy", packages: "haproxy", programs: []string{"haproxy"}, dir: "haproxy",
		files: []string{"haproxy.cfg"},
		line:  "fdclient get web --drain-signal USR1 --env 'FDWEB={fd}' -- haproxy -db -f haproxy.cfg", listener: "web",
		ask: askHTTP, stop: syscall.SIGUSR1,
		nonblock: sets,
		notes:    "SIGTERM stops it at once and drops what it has accepted; SIGUSR1 finishes that first. It clears `TCP_QUICKACK` on the shared socket.",
	},
	{
		name: "Node", packages: "nodejs", programs: []string{"node"}, dir: "node",
		files: []string{"server.js"},
		line:  "fdclient get web -- node server.js {fd}", listener: "web",
		ask: askHTTP, stop: syscall.SIGTERM,
		nonblock: sets, backlog: 511,
		notes: "A `backlog` beside `fd` is ignored: the limit becomes 511, until the broker undoes that. SIGTERM ends Node at once unless the program handles it, as this one does. Not with " +
			"`fdclient get --stdin`: at its end Node clears `O_NONBLOCK` of descriptors 0 to 2, for all who share the socket.",
	},
	{
		name: "php-fpm", packages: "php-fpm", programs: []string{"php-fpm"}, dir: "php-fpm",
		files: []string{"php-fpm.conf", "index.php"},
		line:  "fdclient get --blocking --drain-signal QUIT php --env 'FPM_SOCKETS={addr}={fd}' -- php-fpm -F -y php-fpm.conf", listener: "php",
		ask: askFastCGI, stop: syscall.SIGQUIT,
		nonblock: leaves,
		notes: "`php-fpm8.2` on Debian 12. For two pools: `--env 'FPM_SOCKETS={addr:a}={fd:a},{addr:b}={fd:b}'`. The pool's `listen` must say the address as `fdclient addr` prints it. " +
			"It does not know `LISTEN_FDS`. Its workers sleep in `accept`, and exit where they cannot: without `--blocking` requests are answered, but idle workers are replaced about a hundred times a second. " +
			"Without `process_control_timeout` SIGQUIT does not wait for the requests that are being served. Of a Unix socket it removes the path when it stops: give it a TCP one.",
	},
	{
		name: "Go", packages: "", programs: []string{"server"}, dir: "go",
		files: []string{"server.go"},
		line:  "fdclient get web -- server", listener: "web",
		ask: askHTTP, stop: syscall.SIGTERM,
		nonblock: sets,
		notes: "A program that may import a package takes [broker.Dial](../README.md#workers) instead, and needs no `fdclient`. Never call `Fd` on the file that `(*net.TCPListener).File` returns, nor put it into " +
			"`exec.Cmd.ExtraFiles`: both clear `O_NONBLOCK` for all who share the socket, and a Go server among them can no longer stop.",
	},
	{
		name: "Python", packages: python3, programs: []string{python3}, python: "http.server", dir: "python",
		files: []string{"server.py"},
		line:  "fdclient get web -- python3 server.py {fd}", listener: "web",
		ask: askHTTP, stop: syscall.SIGTERM,
		nonblock: leaves,
		notes: "`http.server` waits with `select` and survives a connection that another process got first. A plain `accept()` does not: where `O_NONBLOCK` is set it raises `BlockingIOError`. " +
			"Give a program that does that `fdclient get --blocking`. A signal handler must not call `server.shutdown`, which waits, nor start a thread that does: both can hang. `settimeout(1)` on the socket sets `O_NONBLOCK` for all who share it, `settimeout(None)` and `setblocking(True)` clear it.",
	},
}
