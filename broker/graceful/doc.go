// Package graceful is the exit of a worker that loses nothing: it serves on listeners of a broker until the process is
// asked to leave, and then lets connections finish.
//
//	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
//	defer stop()
//	ln, err := broker.Dial("web")
//	if err != nil {
//		log.Fatal(err)
//	}
//	if err := graceful.Serve(ctx, &http.Server{Handler: handler}, ln, graceful.Config{}); err != nil {
//		log.Fatal(err)
//	}
//
// [Serve] tells the service manager or "fdclient run" that the process is ready (READY=1, see sd_notify(3)) and accepts
// connections until the broker asks the process to leave, or ctx is done. Then it accepts no more, and connections get
// [Config].Grace to finish. [Run] does the same for several servers at once, of HTTP, gRPC or anything else.
//
// How each kind of connection ends:
//
//   - HTTP/1.1: the next response says "Connection: close". A connection that is idle stays open for half of the grace,
//     because a request may be on its way, and is then closed unless it has sent something.
//   - HTTP/2: the client gets a GOAWAY that refuses nothing, and makes no new streams once it has read it.
//   - WebSocket and other hijacked connections: they are waited for. [Config].OnDrain tells them to end.
//   - gRPC: GracefulStop.
//
// [http.Server.Shutdown] alone is not enough: it closes a connection that was accepted and not read yet, and one whose
// next request is on its way.
//
// The package is for workers. It never logs.
package graceful
