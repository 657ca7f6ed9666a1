// Command server serves HTTP on the listener that is its descriptor 3, until SIGTERM; then it finishes what it has
// accepted.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/fdbroker/fdbroker/broker/graceful"
)

func main() {
	file := os.NewFile(3, "web")
	ln, err := net.FileListener(file)
	if err != nil {
		log.Fatal(err)
	}
	_ = file.Close() // ln has a duplicate

	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(10 * time.Millisecond)
			fmt.Fprintln(w, os.Getpid())
		}),
		ReadHeaderTimeout: 10 * time.Second,
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := graceful.Serve(ctx, server, ln, graceful.Config{}); err != nil {
		log.Fatal(err)
	}
}
