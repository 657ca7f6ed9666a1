//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/internal/notify"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/rs/zerolog"
)

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// manyListeners is how many listeners make it worth a second collection at the
// start, which takes a quarter of a megabyte itself.
const manyListeners = 1000

// run is the command: it returns the exit status. Hangups are SIGHUPs.
func run(ctx context.Context, args []string, hangups <-chan os.Signal, stdout, stderr io.Writer) int {
	o, err := parse(args, stdout)
	switch {
	case errors.Is(err, errDone):
		return exitOK
	case err != nil:
		complain(stderr, err)
		fmt.Fprintln(stderr, "Try 'fdbroker --help'.")
		return exitUsage
	}
	listeners, err := specs(o.binds, o.config)
	if err != nil {
		complain(stderr, err)
		return exitUsage
	}
	if n := len(listeners); n > o.server.MaxNames {
		complain(stderr, fmt.Errorf("%d listeners, and --max-names is %d", n, o.server.MaxNames))
		return exitUsage
	}
	if o.check {
		for _, spec := range listeners {
			fmt.Fprintln(stdout, spec)
		}
		return exitOK
	}
	log, flush := newLogger(stderr, o.level, o.format)
	defer flush()
	if err := serve(ctx, o, listeners, hangups, log); err != nil {
		complain(stderr, err)
		return exitFailed
	}
	return exitOK
}

// complain prints an error, each of its lines as one of this command's. Names of
// processes are in it, which others have chosen.
func complain(w io.Writer, err error) {
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintf(w, "fdbroker: %s\n", protocol.Printable(line))
	}
}

// serve binds everything and answers until ctx is done. It leaves nothing behind.
func serve(ctx context.Context, o options, listeners []socket.Spec, hangups <-chan os.Signal, log zerolog.Logger) (err error) {
	m := newManager(log)
	r := &reloader{config: o.config, manager: m, log: log}
	if o.config != "" {
		r.binds = o.binds
	}
	o.binds = nil // thousands, it may be
	o.server.Logger, o.server.Reload, o.server.Counted = log, r.reload, m.counted
	passed, err := passedSockets()
	if err != nil {
		return err
	}
	s, err := server.New(o.server)
	if err != nil {
		closePassed(passed)
		return err
	}
	r.server = s
	defer func() { err = errors.Join(err, s.Close()) }()
	// First, so that a second broker is told so rather than that its addresses are
	// in use. Whoever connects now is answered when all is bound.
	control, err := server.ListenControl(o.control)
	if err != nil {
		closePassed(passed)
		return err
	}
	defer func() { err = errors.Join(err, control.Close()) }()
	if err := s.Configure(listeners, passed); err != nil {
		return err
	}
	many := len(listeners) >= manyListeners
	listeners = nil
	if many {
		runtime.GC() // what is in pools, the log's above all, survives the first collection
	}
	debug.FreeOSMemory() // what thousands of specs took to parse is never needed again
	defer context.AfterFunc(ctx, func() { m.tell(notify.Stopping) })()
	return r.answer(ctx, hangups, control)
}

// answer answers on the control socket until ctx is done, or something that has to be
// given back at the start is not.
func (r *reloader) answer(ctx context.Context, hangups <-chan os.Signal, control *server.Control) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var helpers sync.WaitGroup
	helpers.Go(func() { r.onSignals(ctx, hangups) })
	helpers.Go(func() { r.manager.feedWatchdog(ctx, control.Path()) })
	var missing error
	helpers.Go(func() {
		if missing = r.server.Settle(ctx); missing != nil {
			cancel()
		} else if ctx.Err() == nil {
			r.log.Info().Str("socket", control.Path()).Msg("ready")
			r.manager.tell(notify.Ready)
		}
	})
	err := r.server.Serve(ctx, control.Listener)
	cancel()
	helpers.Wait()
	switch {
	case missing != nil:
		return missing
	case !errors.Is(err, server.ErrClosed):
		return err
	}
	r.log.Info().Msg("stopped")
	return nil
}
