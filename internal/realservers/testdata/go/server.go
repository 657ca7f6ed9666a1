// Command server serves HTTP on the listener that is its descriptor 3, until
// SIGTERM; then it finishes what it has accepted.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

func main() {
	file := os.NewFile(3, "web")
	ln, err := net.FileListener(file)
	if err != nil {
		log.Fatal(err)
	}
	_ = file.Close() // ln has a duplicate

	var conns sync.WaitGroup // those that are open
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(10 * time.Millisecond)
			fmt.Fprintln(w, os.Getpid())
		}),
		ReadHeaderTimeout: 10 * time.Second,
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				conns.Add(1)
			case http.StateClosed, http.StateHijacked:
				conns.Done()
			}
		},
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() { _ = ln.Close() })
	if err := server.Serve(ln); !errors.Is(err, net.ErrClosed) {
		log.Fatal(err)
	}

	// Not server.Shutdown: it drops what was accepted and not read yet.
	server.SetKeepAlivesEnabled(false)
	conns.Wait()
}
