// Package broker is what a worker imports to accept on a socket that an fdbroker
// owns, and what an operator's program imports to ask or tell that broker
// something.
//
// A worker dials a listener by its name and serves:
//
//	ln, err := broker.Dial("web")
//	if err != nil {
//		log.Fatal(err)
//	}
//	log.Fatal(http.Serve(ln, handler))
//
// The socket is the broker's: it was listening before the worker came, and goes
// on queueing connections when the worker has gone. Closing a [Listener] takes
// nothing from the other workers, and losing the broker does not stop Accept.
//
// The broker can be told to ask workers to leave, as a new version does with
// [Listener.Replace]: then Accept returns [ErrDrained], and the worker finishes what
// it has accepted.
//
// A worker needs its sockets non-blocking, as everything in Go does, and
// O_NONBLOCK is shared by all who hold a socket. The broker makes it so, or
// answers [ErrConflict] where others hold the socket blocking. Beyond that the
// package changes nothing about a shared socket.
//
// The control socket is the one that a [Dialer] or a [Client] names. Where they
// name none it is $FDBROKER_SOCKET, else /run/fdbroker/control for root and
// $XDG_RUNTIME_DIR/fdbroker/control for everybody else, who also look at
// /run/fdbroker/control where the former does not exist.
package broker
