//go:build linux

// Command http is a web server without a port of its own: it serves the
// listener of a broker. Start as many as you like, stop or kill them in any
// order: the port stays open, and only what a killed one had begun is lost.
//
//	http               serves the listener "web"
//	http -name adm     serves another one
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/fdbroker/fdbroker/broker"
)

// goodbye is how long requests may take to finish once a stop was asked for.
const goodbye = 10 * time.Second

func main() {
	log.SetPrefix("http: ")
	log.SetFlags(0)
	name := flag.String("name", "web", "serve the broker's listener `NAME`")
	flag.Parse()
	if err := serve(*name); err != nil {
		log.Fatal(err)
	}
}

// serve answers requests until SIGTERM or Ctrl-C, then finishes those it has.
func serve(name string) error {
	ln, err := broker.Dial(name) // instead of net.Listen("tcp", ":9000"): any Go server runs on it
	if err != nil {
		return err
	}
	var conns sync.WaitGroup // those that are open
	srv := &http.Server{
		Handler:           http.HandlerFunc(hello),
		ReadHeaderTimeout: 10 * time.Second,
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				conns.Add(1)
			case http.StateClosed:
				conns.Done()
			}
		},
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() { _ = ln.Close() }) // what is queued goes to the other workers
	log.Printf("process %d serves http://%v", os.Getpid(), ln.Addr())
	if err := srv.Serve(ln); !errors.Is(err, net.ErrClosed) {
		return err
	}

	// Not srv.Shutdown: it drops the request of a connection that was accepted but
	// not read yet, for which no other worker can stand in any more.
	stop() // a second signal ends the process at once
	time.AfterFunc(goodbye, func() { log.Fatalf("not finished after %v", goodbye) })
	srv.SetKeepAlivesEnabled(false)
	conns.Wait()
	return nil
}

// hello tells which of the processes answered.
func hello(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintf(w, "hello from process %d\n", os.Getpid())
}
