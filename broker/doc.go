// Package broker is the client library of fdbroker. A worker uses it to accept on sockets
// that a broker owns; an operator's program uses it to call the broker.
//
// A worker dials a listener by its name and serves:
//
//	ln, err := broker.Dial("web")
//	if err != nil {
//		log.Fatal(err)
//	}
//	log.Fatal(http.Serve(ln, handler))
//
// The socket is the broker's: it was listening before the worker came, and goes on queueing connections when the worker
// has gone. Closing a [Listener] takes nothing from the other workers, and losing the broker does not stop Accept.
//
// The broker can ask workers to leave, for example when a new version calls [Listener.Replace]: then Accept returns
// [ErrDrained], and the worker finishes its connections: the package broker/graceful serves and does so.
//
// A Go program needs its sockets non-blocking, and all holders of a socket share O_NONBLOCK.
// The broker sets it, or answers [ErrConflict] if others hold the socket blocking. The
// package must never change anything else about a shared socket, and never imports a logger.
//
// A [Dialer] or a [Client] may name the control socket. Otherwise it is $FDBROKER_SOCKET,
// else /run/fdbroker/control for root and $XDG_RUNTIME_DIR/fdbroker/control for other users;
// if the latter does not exist, they use /run/fdbroker/control too.
package broker
