// Command worker is the square server in Go: a line with a number is answered
// by its square and the worker's pid. Anything else crashes it.
//
//	worker                          accepts on the listener "web" of a broker
//	worker -name adm                another of its listeners
//	worker -wait                    waits for a place there first: a standby
//	worker -listen 127.0.0.1:9000   binds a port of its own: the plain server
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/fdbroker/fdbroker/broker"
)

// notStarted is the exit status if there is no listener, as fdclient's. It tells a loop that
// another start would not help.
const notStarted = 125

func main() {
	log.SetPrefix("worker: ")
	log.SetFlags(0)
	name := flag.String("name", "web", "accept on the broker's listener `NAME`")
	address := flag.String("listen", "", "bind `ADDRESS` instead of asking a broker")
	wait := flag.Bool("wait", false, "wait for a broker, the listener and a place")
	flag.Parse()

	ln, err := listen(*name, *address, *wait)
	if err != nil {
		log.Print(err)
		os.Exit(notStarted)
	}
	fmt.Printf("worker %d: accepting on %v\n", os.Getpid(), ln.Addr())
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() { _ = ln.Close() })
	var answers sync.WaitGroup
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) { // stopped, or drained by the broker
			answers.Wait()
			return
		}
		if err != nil {
			log.Fatal(err)
		}
		answers.Go(func() { answer(conn) })
	}
}

// listen shows all that differs between a port of one's own and a granted one.
func listen(name, address string, wait bool) (net.Listener, error) {
	if address != "" {
		return net.Listen("tcp", address)
	}
	d := broker.Dialer{Wait: wait}
	return d.Dial(context.Background(), name)
}

func answer(conn net.Conn) {
	defer conn.Close()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return
	}
	n, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		// The bug. Unlike a panic, Fatal runs no deferred Close, so the connection ends only
		// when the process has stopped accepting.
		log.Fatal(err)
	}
	fmt.Fprintln(conn, n*n, os.Getpid())
}
