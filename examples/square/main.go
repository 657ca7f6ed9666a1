// Command square runs an experiment and prints a table: what happens to twenty requests if the
// server crashes on the sixth. The server squares numbers. It runs in several ways, in Python
// and in Go: alone, in a loop that starts it again, in such a loop behind a broker, as two
// workers behind a broker, and kept alive by "fdclient run". In the last row two thousand
// requests crash five workers, and all workers are replaced in the middle.
//
//	go run ./examples/square
//	go run ./examples/square -v           also shows each request
//	go run ./examples/square -pause 0     asks without a pause between requests
//	go run ./examples/square 127.0.0.1:9000
//	                                      only asks a server that runs there
//
// The experiment is Rickard Lindberg's, from "How to write reliable socket
// servers that survive crashes and restarts?",
// https://rickardlindberg.me/writing/reliable-socket-servers/
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"
	"time"
)

// defaultPause is the client's, between two requests.
const defaultPause = 10 * time.Millisecond

func main() {
	verbose := flag.Bool("v", false, "show each request")
	pause := flag.Duration("pause", defaultPause, "let the client wait `DURATION` between two requests")
	flag.Parse()
	// An interrupt must end all processes that the experiment has started.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	var err error
	if server := flag.Arg(0); server != "" {
		q := questions{count: 20, round: 20, pause: *pause}
		err = q.ask(ctx, server, func(r result) { fmt.Println(r) })
	} else {
		err = experiment(ctx, os.Stdout, *pause, *verbose)
	}
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "square:", err)
		os.Exit(1)
	}
}

// experiment runs every set-up and prints the table.
func experiment(ctx context.Context, w io.Writer, pause time.Duration, verbose bool) error {
	b, err := newBench(ctx)
	if err != nil {
		return err
	}
	defer b.close()
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer table.Flush() // also the rows before an error
	fmt.Fprintln(table, "SET-UP\tLANGUAGE\tANSWERED\tREFUSED\tUNANSWERED\tSLOWEST\tWHAT HAPPENED")
	for _, s := range setups {
		if err := b.available(s); err != nil {
			fmt.Fprintf(table, "%s\t%s\tskipped: %v\n", s.name, s.language, err)
			continue
		}
		rs, err := b.measure(ctx, s, pause)
		if err != nil {
			return fmt.Errorf("%s, %s: %w", s.name, s.language, err)
		}
		if verbose {
			printRequests(w, s, rs)
		}
		answered, refused, unanswered := rs.count()
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%d\t%.0f ms\t%s\n",
			s.name, s.language, answered, refused, unanswered, rs.slowest(), rs.story())
	}
	return nil
}

// printRequests shows the outcome of each request of one set-up.
func printRequests(w io.Writer, s setup, rs results) {
	fmt.Fprintf(w, "%s, %s: %d x %s\n", s.name, s.language, s.times, s.command)
	for _, r := range rs {
		fmt.Fprintln(w, r)
	}
	fmt.Fprintln(w)
}
