//go:build linux

package graceful_test

import (
	"context"
	"errors"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/fdbroker/fdbroker/broker"
	"github.com/fdbroker/fdbroker/broker/graceful"
)

var (
	handler http.Handler
	rpc     graceful.GRPCServer // made by grpc.NewServer
)

// The whole of a web server that can be deployed without a failed request.
func ExampleServe() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ln, err := broker.Dial("web")
	if err != nil {
		log.Fatal(err)
	}
	err = graceful.Serve(ctx, &http.Server{Handler: handler}, ln, graceful.Config{})
	if cut, ok := errors.AsType[*graceful.CutError](err); ok {
		log.Printf("%d connections were too slow", cut.Count)
	} else if err != nil {
		log.Fatal(err)
	}
}

// Two servers that leave together, and handlers of WebSockets that say goodbye.
func ExampleRun() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	lns, err := new(broker.Dialer).DialAll(ctx, "web", "rpc")
	if err != nil {
		log.Fatal(err)
	}
	leaving := make(chan struct{}) // a handler that has hijacked its connection waits for it
	c := graceful.Config{
		OnDrain: func() { close(leaving) },
		Replace: true, // when this process is ready, the version before leaves
	}
	if err := graceful.Run(ctx, c, graceful.HTTP(&http.Server{Handler: handler}, lns[0]), graceful.GRPC(rpc, lns[1])); err != nil {
		log.Fatal(err)
	}
}

// A server of datagrams answers what it has read.
func ExamplePacket() {
	pc, err := broker.DialPacket("dns")
	if err != nil {
		log.Fatal(err)
	}
	serve := func() error {
		var handlers sync.WaitGroup
		defer handlers.Wait()
		for {
			query := make([]byte, 1500)
			n, from, err := pc.ReadFrom(query)
			if err != nil {
				return err
			}
			handlers.Go(func() { answer(pc, query[:n], from) })
		}
	}
	if err := graceful.Run(context.Background(), graceful.Config{}, graceful.Packet(pc, serve)); err != nil {
		log.Fatal(err)
	}
}

func answer(pc net.PacketConn, query []byte, to net.Addr) { _, _ = pc.WriteTo(query, to) }
