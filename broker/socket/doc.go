// Package socket knows what a listening socket is: it parses the text that
// describes one (a spec), opens it with its options, says what waits in its
// queue, and takes it away again.
//
// It never accepts on, reads from or shuts down a socket: whoever is handed a
// duplicate does that. No socket of this package joins the runtime's poller,
// which would wake up for connections that others are meant to accept.
//
// It knows nothing of the control protocol, of grants, or of who asks: of the
// options that concern those (allow, max) it only parses and prints the text.
package socket
