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
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fdbroker/fdbroker/broker"
)

// After SIGTERM or a drain, kept-alive connections get keepAliveTime for another request, and
// all requests get finishTime. A supervisor must wait longer than that before it kills.
const (
	keepAliveTime = 4 * time.Second
	finishTime    = 8 * time.Second
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

// serve answers requests until SIGTERM, Ctrl-C, or a newer deploy, then finishes those it has.
func serve(name, greeting string) error {
	ln, err := broker.Dial(name) // instead of net.Listen("tcp", ":9000"): any Go server runs on it
	if err != nil {
		return err
	}
	var conns sync.WaitGroup // the open connections
	var leaving atomic.Bool
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if leaving.Load() {
				w.Header().Set("Connection", "close") // the client's next request goes to another worker
			}
			fmt.Fprintf(w, "%s from process %d\n", greeting, os.Getpid())
		}),
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
	context.AfterFunc(ctx, func() { _ = ln.Close() }) // the queue goes to the other workers
	log.Printf("process %d serves http://%v", os.Getpid(), ln.Addr())
	if err := ready(); err != nil {
		log.Print(err)
	}
	if err := srv.Serve(ln); !errors.Is(err, net.ErrClosed) { // broker.ErrDrained is one, too
		return err
	}

	// Not srv.Shutdown: it drops the request of a connection that was accepted and not read yet. Idle connections stay
	// open for a while, because the next request may be on its way. Its answer closes the connection.
	leaving.Store(true)
	stop() // a second signal ends the process at once
	time.AfterFunc(keepAliveTime, func() { srv.SetKeepAlivesEnabled(false) })
	time.AfterFunc(finishTime, func() { log.Fatalf("not finished after %v", finishTime) })
	conns.Wait()
	return nil
}

// ready sends READY=1 to the supervisor, if that wants to know (sd_notify).
func ready() error {
	address := os.Getenv("NOTIFY_SOCKET")
	if address == "" {
		return nil
	}
	c, err := net.Dial("unixgram", address)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte("READY=1"))
	return err
}
