// Command http is a web server without a port of its own: it serves the listener of a broker.
// Start as many as you like, and stop or kill them in any order: the port stays open, and only
// the requests that a killed one had begun are lost.
//
//	http               serves the listener "web"
//	http -name adm     serves another one
//	http -greeting hi  says something else
//
// A deploy, without a failed request on new connections or on those that are kept alive:
//
//	fdclient run -n 2 --ready notify -- http -greeting v1
//	fdclient run -n 2 --ready notify --replace -- http -greeting v2
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/broker/graceful"
)

func main() {
	log.SetPrefix("http: ")
	log.SetFlags(0)
	name := flag.String("name", "web", "serve the broker's listener `NAME`")
	greeting := flag.String("greeting", "hello", "say `TEXT` in each answer")
	flag.Parse()
	if err := serve(*name, *greeting); err != nil {
		log.Fatal(err)
	}
}

// serve answers requests until SIGTERM, Ctrl-C, or a newer deploy, then finishes those it has. More signals change
// nothing: Ctrl-C in a terminal reaches the worker twice, once from "fdclient run".
func serve(name, greeting string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ln, err := broker.Dial(name) // instead of net.Listen("tcp", ":9000"): any Go server runs on it
	if err != nil {
		return err
	}
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, "%s from process %d\n", greeting, os.Getpid())
		}),
		ReadHeaderTimeout: 10 * time.Second,
	}
	log.Printf("process %d serves http://%v", os.Getpid(), ln.Addr())
	return graceful.Serve(ctx, srv, ln, graceful.Config{})
}
