//go:build linux

package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"

	"github.com/fdbroker/fdbroker/broker/server"
	"github.com/fdbroker/fdbroker/broker/socket"
	"github.com/fdbroker/fdbroker/internal/notify"
	"github.com/fdbroker/fdbroker/protocol"
	"github.com/rs/zerolog"
)

// reloader reads the configuration file again, when a signal or a client asks.
type reloader struct {
	server  *server.Server
	binds   []string // of the command line: these stay
	config  string
	manager *manager
	log     zerolog.Logger

	mu sync.Mutex // one at a time, so that each READY=1 ends the RELOADING=1 before it

	making sync.Once
	ended  chan struct{} // see over
}

// errStops says that a broker that is told to stop reads nothing any more.
var errStops = errors.New("the broker stops")

// over returns the channel that is closed when the broker is to stop.
func (r *reloader) over() chan struct{} {
	r.making.Do(func() { r.ended = make(chan struct{}) })
	return r.ended
}

// onSignals reloads for each of signals until ctx is done. Without --config there is
// nothing to read; that the signal is heard all the same is what keeps a broker alive
// when its terminal is closed. It is called once.
func (r *reloader) onSignals(ctx context.Context, signals <-chan os.Signal) {
	context.AfterFunc(ctx, func() { close(r.over()) })
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
			_, _ = r.reload() // which has logged it
		}
	}
}

// reload reads the configuration again and logs an error that this gives.
func (r *reloader) reload() (server.Changes, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.manager.tell(notify.Reloading())
	if r.config == "" {
		r.log.Info().Msg("nothing to reload: there is no --config")
		r.manager.tell(notify.Ready)
		return server.Changes{}, &protocol.ReloadFailedError{Reasons: []string{"nothing to reload: the broker was started without --config"}}
	}
	changes, err := r.load()
	if err != nil {
		r.log.Error().Err(err).Str("config", r.config).Msg("configuration not loaded, nothing changed")
		r.manager.tell(notify.Ready, notify.Status(r.manager.serving()+"; configuration not loaded: "+err.Error()))
		return changes, err
	}
	r.manager.tell(notify.Ready)
	return changes, nil
}

func (r *reloader) load() (server.Changes, error) {
	listeners, err := unless(r.over(), func() ([]socket.Spec, error) { return specs(r.binds, r.config) })
	if err != nil {
		return server.Changes{}, &protocol.ReloadFailedError{Reasons: strings.Split(err.Error(), "\n")}
	}
	return r.server.Reload(listeners)
}

// unless returns what f does, or [errStops] once over is closed. Then f, which a file
// system may hold up for ever, is left alone until the process ends.
func unless[T any](over <-chan struct{}, f func() (T, error)) (value T, err error) {
	type result struct {
		value T
		err   error
	}
	results := make(chan result, 1)
	go func() {
		value, err := f()
		results <- result{value, err}
	}()
	select {
	case r := <-results:
		return r.value, r.err
	case <-over:
		return value, errStops
	}
}
